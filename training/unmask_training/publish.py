"""Writes a trained model as a bundle: safetensors in bfloat16, tokenizer, CMVN, presets and `bundle.json`."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unmask_engine.codecs.speech_flow import SpeechFlow
from unmask_engine.components import config_to_json
from unmask_engine.preset import CanvasRule, Message, Pin, Preset, StepsRule
from unmask_training import train_ears, train_image_codec, train_speech_codec, train_vocoder
from unmask_training.corpus import SLOT_TOKENS
from unmask_training.partial import whole
from unmask_training.seen import RECORD
from unmask_training.sequences import SPOKEN_CANVAS, SPOKEN_MARK
from unmask_training.templates import (
    ASR_INSTRUCTION,
    S2I_SYSTEM,
    SQA_SYSTEM,
    SVQA_SYSTEM,
    T2I_INSTRUCTIONS,
    TTS_INSTRUCTION,
)
from unmask_training.vocabulary import AUDIO_CODES, IMAGE_CODES

NAME = "unmask-mini"
ANSWER_CANVAS = 16  # the longest answer and its end have 14 tokens; training shows up to 16 pads behind an answer
CTC_DELAY_S = 0.26  # median over 260 words whose borders are known, of voices heard and never heard (docs/log.md)
# mu alone, without the flow's estimator: clearer than samples from full noise, and what fits into 40 MB (docs/log.md).
SERVED_FLOW = replace(train_speech_codec.FLOW, num_steps=0)
_GRID = (train_image_codec.SIDE // train_image_codec.CONFIG.factor) ** 2
_FRAME = (
    Pin("begin_of_image", at=0, in_reference=False),
    Pin("end_of_image", at=-3, in_reference=False),
    Pin("im_end", at=-2, in_reference=False),
    Pin("newline", at=-1, in_reference=False),
)
_SPEECH_FRAME = (
    Pin("begin_of_audio", at=0, in_reference=False),
    Pin("end_of_audio", at=-3, in_reference=False),
    Pin("im_end", at=-2, in_reference=False),
    Pin("newline", at=-1, in_reference=False),
)
_SPOKEN = (Pin("begin_of_audio", at_fraction=0.2),)

# A spoken answer is decoded from the left, its text as the first block: speech is heard before all of it is made, and
# behind the end mark nothing is decoded. `dialogue` is false throughout: the recipe has no sample of several turns.
# Canvases of fewer than 100 tokens have no position penalty, and the small picture codes repeat by nature, so that a
# repetition penalty would hurt: the presets of the small model are plainer than the published ones.
_ANSWER = CanvasRule(tokens=ANSWER_CANVAS)
PRESETS = (
    Preset(
        "t2i", ("text",), ("image",), (Message("user", f"{T2I_INSTRUCTIONS[0]}\n{{text}}"),),
        CanvasRule(tokens=_GRID + 4), StepsRule(fraction=0.5), pins=_FRAME,
    ),
    Preset(
        "s2i", ("audio",), ("image",), (Message("system", S2I_SYSTEM), Message("user", "\n<|audio|>")),
        CanvasRule(tokens=_GRID + 4), StepsRule(fraction=0.5), pins=_FRAME,
    ),
    Preset(
        "svqa", ("audio", "image"), ("text", "audio"),
        (Message("system", SVQA_SYSTEM), Message("user", "<|audio|>\n<|image|>")),
        CanvasRule(tokens=SPOKEN_CANVAS), StepsRule(fraction=0.5), block_size=SPOKEN_MARK, pins=_SPOKEN,
    ),
    Preset(
        "sqa", ("audio",), ("text", "audio"), (Message("system", SQA_SYSTEM), Message("user", "\n<|audio|>")),
        CanvasRule(tokens=SPOKEN_CANVAS), StepsRule(fraction=0.5), block_size=SPOKEN_MARK, pins=_SPOKEN,
    ),
    Preset(
        "vqa", ("text", "image"), ("text",), (Message("user", "{text}\n<|image|>"),), _ANSWER,
    ),
    Preset(
        "caption", ("image",), ("text",), (Message("user", "describe the image\n<|image|>"),), _ANSWER,
    ),
    Preset(
        "tts", ("text",), ("audio",), (Message("user", f"{TTS_INSTRUCTION}\n{{text}}"),),
        CanvasRule(per_text_token=SLOT_TOKENS, extra=4), StepsRule(fraction=0.5), pins=_SPEECH_FRAME,
        piece_words=8,
    ),
    Preset(
        "asr", ("audio",), ("text",), (Message("user", f"{ASR_INSTRUCTION}\n<|audio|>"),),
        CanvasRule(per_prompt_token=0.2, minimum=ANSWER_CANVAS),
    ),
    Preset("chat", ("text",), ("text",), (Message("user", "{text}"),), _ANSWER),
)  # fmt: skip


def rounded(module: nn.Module) -> nn.Module:
    """Round the weights to bfloat16 in place, so that training data is tokenised by exactly what ships."""
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(p.to(torch.bfloat16))
    return module


def write_weights(module: nn.Module, path: Path) -> None:
    def stored(tensor: Tensor) -> Tensor:
        return (tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor).contiguous().clone()

    save_file({name: stored(t) for name, t in module.state_dict().items()}, str(path))


def description(backbone: Any) -> dict[str, Any]:
    """The content of `bundle.json`."""

    def component(file: str, config: Any = None, **extra: Any) -> dict[str, Any]:
        return {**({"config": config} if config else {}), "source": {"files": [file]}, **extra}

    return {
        "format": 1,
        "name": NAME,
        "description": "A small Omni-Diffusion that hears, speaks, sees and draws inside a world of coloured shapes.",
        "components": {
            "backbone": component(
                "backbone.safetensors",
                {"backbone": config_to_json(backbone), "speech": config_to_json(train_ears.CONFIG)},
                # Trained with float32 weights: the speech encoder's positions are other numbers in bfloat16.
                dtype="float32",
            ),
            "image_tokenizer": component("image_tokenizer.safetensors", config_to_json(train_image_codec.CONFIG)),
            "speech_flow": component("speech_flow.safetensors", config_to_json(SERVED_FLOW)),
            "vocoder": component("vocoder.safetensors", config_to_json(train_vocoder.CONFIG)),
            "speech_tokenizer": component(
                "speech_tokenizer.safetensors", config_to_json(train_speech_codec.TOKENIZER), optional=True
            ),
            "text_tokenizer": component("tokenizer.json"),
            "cmvn": component("am.mvn"),
        },
        "tokens": {
            "special": {
                "pad": "<|endoftext|>", "im_start": "<|im_start|>", "im_end": "<|im_end|>", "mask": "<|mask|>",
                "begin_of_image": "<|begin_of_image|>", "end_of_image": "<|end_of_image|>",
                "context_of_image": "<|context_of_image|>", "image": "<|image|>",
                "begin_of_audio": "<|begin_of_audio|>", "end_of_audio": "<|end_of_audio|>",
                "context_of_audio": "<|context_of_audio|>", "audio": "<|audio|>",
            },
            "audio": {"first": "<|audio_0|>", "count": AUDIO_CODES},
            "image": {"first": "<|image_0|>", "count": IMAGE_CODES},
        },
        "media": {
            "image_input_size": train_image_codec.SIDE, "image_output_size": train_image_codec.SIDE,
            "audio_input_rate": 16000, "audio_output_rate": 22050, "audio_token_rate": 12.5,
            "ctc_row_s": 0.06, "ctc_delay_s": CTC_DELAY_S,
        },
        "presets": [p.to_json() for p in PRESETS],
    }  # fmt: skip


def served_flow(trained: SpeechFlow) -> SpeechFlow:
    """The part of a trained flow that is served."""
    flow = SpeechFlow(SERVED_FLOW)
    names = set(flow.state_dict())
    flow.load_state_dict({name: t for name, t in trained.state_dict().items() if name in names})
    return flow


def write_record(
    folder: Path, config: Mapping[str, Any], data_hash: str | None, minutes: float, start: Path | None = None
) -> None:
    """How the bundle was made: seed, SHA-256 of the data, minutes of training of the backbone, and the recipe's config.

    `start` is the record of the bundle whose weights it began from: its data have been seen, too (seen.py).
    """
    record: dict[str, Any] = {"seed": config["seed"], "data_sha256": data_hash, "minutes": round(minutes, 2)}
    record["config"] = config
    if start is not None and start.is_file():
        record["start"] = json.loads(start.read_text(encoding="utf-8"))
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def write_description(folder: Path, backbone: Any) -> None:
    with whole(folder / "bundle.json") as partial:
        partial.write_text(json.dumps(description(backbone), indent=2) + "\n")
