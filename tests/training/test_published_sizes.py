"""The code of a stage at the published sizes, shapes only: forward and backward on the meta device, without memory."""

import random
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from unmask_engine.bundle import load_bundle
from unmask_engine.codecs.image_tokenizer import ImageTokenizer
from unmask_engine.components import build_component
from unmask_engine.models.omni import OmniModel
from unmask_training import train_backbone
from unmask_training.batches import BatchStream, exercise
from unmask_training.pools import Pools
from unmask_training.shared_bits import SharedBits
from unmask_training.train_backbone import Learner, learning_loss

VOCAB, IMAGE_CODES, MASK = 176_264, 8192, 151_666


class ShapesOnly(TorchDispatchMode):
    """What the meta device cannot know: every position that may be chosen is, and every number that is read is 1."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if op is torch.ops.aten.nonzero.default and args[0].is_meta:
            return torch.empty(args[0].numel(), args[0].ndim, dtype=torch.long, device="meta")
        if op is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 1.0
        return op(*args, **(kwargs or {}))


def published() -> Learner:
    """Without memory."""
    bundle = load_bundle("omni-diffusion")
    omni = cast(OmniModel, build_component(bundle, "backbone"))
    codes = cast(ImageTokenizer, build_component(bundle, "image_tokenizer")).quantize.embedding
    assert codes.shape == (IMAGE_CODES, 13)
    with torch.device("meta"):
        model = Learner(SharedBits(omni, VOCAB - IMAGE_CODES, codes))
    model.freeze_ears()
    return model


@pytest.fixture
def eight_processes() -> Iterator[None]:
    """This one is the first of eight; nothing that it says to the others arrives."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    yield
    distributed.destroy_process_group()


def test_the_published_sizes_are_split_over_eight_processes(eight_processes: None) -> None:
    model = published()
    before = {name: p.numel() for name, p in model.named_parameters()}
    model.shard()
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    learnt = {name for name, p in after.items() if p.requires_grad}
    assert all(isinstance(after[name], DTensor) == (name in learnt) for name in after)  # the ears stay whole
    whole = sum(before[name] for name in learnt)
    kept = sum(p.to_local().numel() for name in learnt if isinstance(p := after[name], DTensor))
    assert round(whole / 1e9, 1) == 7.8
    assert kept == pytest.approx(whole / 8, rel=0.01)
    # Weights, gradients, AdamW's two moments and the average in float32, on each of eight GPUs.
    assert 20 * kept < 20e9


@pytest.mark.parametrize("task", ["t2i", "svqa"])
def test_a_stage_takes_the_published_sizes(pools: Pools, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    model = published()
    batch = next(BatchStream(pools, {task: 1.0}, 1024, random.Random(1)))
    speech = [np.zeros((n, model.omni.speech_encoder.config.size), np.float16) for n in (9, 12, 6)]
    monkeypatch.setattr(train_backbone, "mixed", lambda device: nullcontext())  # autocast knows no meta device
    with ShapesOnly():
        loss, _ = learning_loss(model, exercise([batch], MASK, speech, torch.Generator().manual_seed(0)))
        loss.backward()  # type: ignore[no-untyped-call]
    assert loss.shape == ()
    learnt = {n: p for n, p in model.named_parameters() if p.grad is not None}
    assert all(p.grad is not None and p.grad.is_meta and p.grad.shape == p.shape for p in learnt.values())
    expected = {n for n, p in model.named_parameters() if p.requires_grad}
    unused = ("auxiliary.", "audio_projection") if task == "t2i" else ("auxiliary.heard.", "auxiliary.referring.")
    expected = {n for n in expected if not any(part in n for part in unused)}
    assert set(learnt) == expected
    layers = sum(p.numel() for n, p in learnt.items() if ".model.layers." in n)
    assert round(layers / 1e9, 2) == 6.53  # 28 layers; the tables of 176,264 tokens are the rest of 7.789
