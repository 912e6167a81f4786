"""One backbone in two processes answers as it does in one, bit for bit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from unmask_engine.bundle import BundleError
from unmask_engine.components import BUILDERS
from unmask_engine.engine import Engine
from unmask_engine.request import Decoding, GenerationRequest, ImagePart, TextPart
from unmask_engine.tensor_parallel import GroupLost, ParallelModel

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "num_kv_heads": 2}
PICTURE = ImagePart(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
REQUESTS = [
    GenerationRequest((TextPart("a"),), ("image",), decoding=Decoding(steps=2, guidance=1.0)),
    GenerationRequest((TextPart("bc"), PICTURE), ("text",), decoding=Decoding(steps=2)),
    GenerationRequest((TextPart("def"),), ("audio",), decoding=Decoding(steps=2, temperature=1.0, seed=5)),
]


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, but with heads to share, and a vocabulary that cannot be split evenly."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("parallel") / "tiny"))
    description = json.loads((folder / "bundle.json").read_text())
    config = description["components"]["backbone"]["config"]
    odd = config["backbone"]["vocab_size"] | 1
    config["backbone"] |= SHAPE | {"vocab_size": odd}
    torch.manual_seed(0)
    save_file(BUILDERS["backbone"](config).state_dict(), folder / "backbone.safetensors")
    (folder / "bundle.json").write_text(json.dumps(description))
    return folder


def test_two_processes_commit_the_tokens_of_one_and_end_when_one_is_lost(bundle: Path) -> None:
    one = Engine.load(bundle)
    alone = one.generate(REQUESTS)
    two = Engine.load(bundle, tensor_parallel=2)
    model = two.bundle.model
    assert isinstance(model, ParallelModel)
    try:
        together = two.generate(REQUESTS)
        for ours, theirs in zip(together, alone, strict=True):
            assert ours.token_ids == theirs.token_ids
            assert ours.confidence == theirs.confidence

        assert isinstance(one.bundle.model, torch.nn.Module)
        whole = dict(one.bundle.model.named_parameters())
        split = {name: p for name, p in model._model.named_parameters() if isinstance(p, DTensor)}
        matrices = {name for name, p in whole.items() if p.dim() == 2 and "audio" not in name}
        assert matrices <= set(split)
        for name, part in split.items():
            assert part.to_local().numel() <= (whole[name].numel() + whole[name][0].numel()) // 2, name

        (follower,) = model._followers
        follower.kill()
        follower.join()
        with pytest.raises(GroupLost):
            two.generate(REQUESTS[1:2])
    finally:
        model.close()


def test_what_cannot_be_split_is_refused_before_anything_starts(bundle: Path, tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="1 key heads cannot be split evenly among 2"):
        Engine.load(tiny_bundle, tensor_parallel=2)
    with pytest.raises(BundleError, match="2 key heads cannot be split evenly among 4"):
        Engine.load(bundle, tensor_parallel=4)
