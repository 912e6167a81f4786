"""A complete bundle of random weights, small enough to be written and loaded in a blink; what makes runs alike."""

import json
import os
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file

from unmask_engine.bundle import FORMAT
from unmask_engine.components import BUILDERS
from unmask_engine.convert import byte_pair_tokenizer
from unmask_engine.omni_presets import OMNI_PRESETS
from unmask_engine.preset import CanvasRule

# The same examples in each run, so that CI fails by a change alone; --hypothesis-profile=default looks for others.
settings.register_profile("same", derandomize=True, database=None, deadline=None)
settings.load_profile("same")

# One thread a process: on few and busy cores torch's threads wait for one another far longer than they work.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start

NUM_AUDIO, NUM_IMAGE = 64, 16
CANVAS = {"text": 12, "audio": 20, "image": 4 + 4}  # an image is 2 x 2 codes and their frame
EDGES = ("begin", "end", "context")
SPECIAL = {
    "pad": "<|endoftext|>",
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "mask": "<|mask|>",
    **{
        f"{edge}_of_{kind}": f"<|{edge}_of_{kind}|>"
        for kind in ("image", "audio")
        for edge in ("begin", "end", "context")
    },
}
CONFIGS: dict[str, Any] = {
    "image_tokenizer": {
        "channels": 8,
        "multipliers": [1, 1, 1, 1, 1],
        "num_res_blocks": 1,
        "num_bits": 4,
        "norm_groups": 4,
    },
    "speech_flow": {
        "vocab_size": NUM_AUDIO,
        "d_model": 32,
        "encoder_heads": 2,
        "encoder_ffn": 32,
        "encoder_layers": 1,
        "speaker_dim": 8,
        "channels": 16,
        "blocks_per_stage": 1,
        "num_mid_stages": 1,
        "estimator_heads": 2,
        "estimator_head_dim": 8,
    },
    "vocoder": {"channels": [16, 8, 8], "f0_channels": 16, "f0_layers": 1},
}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Which tests ran before changes no random number."""
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    folder.mkdir()
    vocab_size = _write_tokenizer(folder)
    configs = CONFIGS | {
        "backbone": {
            "backbone": {
                "vocab_size": vocab_size,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_layers": 2,
                "num_heads": 2,
                "num_kv_heads": 1,
            },
            "speech": {"size": 16, "num_heads": 2, "ffn_size": 16, "num_layers": 2, "num_tp_layers": 1, "ctc_vocab": 4},
        }
    }
    components: dict[str, Any] = {name: _write_module(folder, name, config) for name, config in configs.items()}
    zeros = " ".join(["0.0"] * 560)
    ones = " ".join(["1.0"] * 560)
    (folder / "am.mvn").write_text(
        f"<Nnet>\n<AddShift> 560 560\n<LearnRateCoef> 0 [ {zeros} ]\n<Rescale> 560 560\n<LearnRateCoef> 0 [ {ones} ]\n"
    )
    components["cmvn"] = {"source": {"files": ["am.mvn"]}}
    components["text_tokenizer"] = {"source": {"files": ["tokenizer.json"]}}
    presets = [replace(p, canvas=CanvasRule(tokens=CANVAS[p.outputs[-1]])) for p in OMNI_PRESETS]
    description = {
        "format": FORMAT,
        "name": "tiny",
        "description": "Random weights.",
        "components": components,
        "tokens": {
            "special": SPECIAL,
            "audio": {"first": "<|audio_0|>", "count": NUM_AUDIO},
            "image": {"first": "<|image_0|>", "count": NUM_IMAGE},
        },
        "media": {
            "image_input_size": 32,
            "image_output_size": 32,
            "audio_input_rate": 16000,
            "audio_output_rate": 22050,
            "audio_token_rate": 12.5,
        },
        "presets": [preset.to_json() for preset in presets],
    }
    (folder / "bundle.json").write_text(json.dumps(description))
    return folder


def _write_module(folder: Path, name: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    save_file(BUILDERS[name](config).state_dict(), folder / f"{name}.safetensors")
    return {"config": config, "source": {"files": [f"{name}.safetensors"]}}


def _write_tokenizer(folder: Path) -> int:
    """Every byte is a token; no merges. Returns the size of the vocabulary."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    (folder / "vocab.json").write_text(json.dumps({letter: id_ for id_, letter in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    added = [*SPECIAL.values(), "<|audio|>", "<|image|>"]
    added += [f"<|audio_{i}|>" for i in range(NUM_AUDIO)] + [f"<|image_{i}|>" for i in range(NUM_IMAGE)]
    ids = {token: len(letters) + i for i, token in enumerate(added)}
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    byte_pair_tokenizer(folder).save(str(folder / "tokenizer.json"))
    return len(letters) + len(added)
