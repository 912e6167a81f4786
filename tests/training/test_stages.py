"""The stage trainer on a toy: it learns, it resumes after being killed, and every task's samples go through it."""

import random
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unmask_engine.models.backbone import BackboneConfig
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoderConfig
from unmask_training import align_speech, loop
from unmask_training.batches import BatchStream, exercise
from unmask_training.loop import Schedule, Training
from unmask_training.pools import Pools
from unmask_training.shared_bits import SharedBits
from unmask_training.train_backbone import Learner, Stage, initialise, learning_loss, train_stage
from unmask_training.vocabulary import IMAGE_CODES
from unmask_training.world import free_scene


def signs(bits: int) -> torch.Tensor:
    codes = torch.arange(2**bits)[:, None] >> torch.arange(bits - 1, -1, -1)
    return (codes & 1).float() * 2 - 1


TASKS = ("t2i", "vqa", "asr", "tts", "s2i", "svqa", "sqa", "chat")


@pytest.fixture
def model(pools: Pools) -> Learner:
    torch.manual_seed(0)
    speech = SpeechEncoderConfig(size=32, num_heads=2, ffn_size=32, num_layers=2, num_tp_layers=1, ctc_vocab=5)
    made = OmniModel(BackboneConfig(pools.writer.tokenizer.get_vocab_size(), 32, 64, 5, 2, 1), speech)
    initialise(made)
    return Learner(SharedBits(made, pools.writer.id("<|image_0|>"), signs(12)))


def rows() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, 32)).astype(np.float16) for n in (9, 12, 6)]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_gives_a_loss_and_gradients(pools: Pools, model: Learner, task: str) -> None:
    batch = next(BatchStream(pools, {task: 1.0}, 512, random.Random(1)))
    assert batch.ids.shape[1] % 16 == 0
    assert batch.pads.any(1).all()
    loss, numbers = learning_loss(model, exercise([batch], pools.writer.mask, rows(), torch.Generator().manual_seed(0)))
    loss.backward()
    assert 0 < numbers["answers"] < 15
    assert loss.item() >= numbers["answers"]
    speaks = task in ("asr", "svqa", "sqa")
    assert (model.omni.model.audio_projection.mlp[0].weight.grad is not None) or not speaks


def test_the_loss_falls_by_learning(pools: Pools, model: Learner) -> None:
    batch = next(BatchStream(pools, {"chat": 1.0}, 512, random.Random(2)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        loss, _ = learning_loss(
            model, exercise([batch], pools.writer.mask, rows(), torch.Generator().manual_seed(step))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < losses[0] - 2


@pytest.mark.parametrize("matrix_rate", [0.0, 3e-3])
def test_a_stage_trains_all_but_the_speech_encoder(
    pools: Pools, model: Learner, tmp_path: Path, matrix_rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(seconds)))  # a step takes one
    before = {n: p.clone() for n, p in model.named_parameters()}
    stage = Stage("stage", {"asr": 0.5, "s2i": 0.5}, 0.2, 3e-3, matrix_rate)  # time for batches of both
    train_stage(model, stage, pools, rows(), tmp_path, seed=0, tokens=512)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    # Neither task has a question about a picture or speaks.
    helpers = tuple(f"auxiliary.{name}." for name in ("grounding", "referring", "spoken"))
    assert changed == {n for n in before if "audio_model" not in n and not n.startswith(helpers)}


def test_a_killed_training_goes_on_where_it_saved(tmp_path: Path) -> None:
    def fresh() -> torch.nn.Linear:
        torch.manual_seed(0)
        return torch.nn.Linear(3, 1)

    schedule = Schedule(minutes=0.002, learning_rate=1e-2, ema_decay=0.9)
    first = Training(fresh(), schedule, tmp_path)
    x = torch.ones(4, 3)
    first.run(lambda step: (first.model(x).square().mean(), {}))
    again = Training(fresh(), schedule, tmp_path)
    assert again.step == first.step > 0
    assert again.elapsed == pytest.approx(first.elapsed)
    assert torch.equal(again.model.weight, first.model.weight)
    assert all(torch.equal(a, b) for a, b in zip(again.ema, first.ema, strict=True))
    steps = again.step
    again.run(lambda step: (again.model(x).square().mean(), {}))
    assert again.step == steps  # its time is spent


def test_shared_bits_fold_into_plain_tables(pools: Pools, model: Learner) -> None:
    with torch.no_grad():
        model.bits.embedding.normal_()
        model.bits.head.normal_()
    ids = torch.tensor([0, 600, model.bits.first, model.bits.first + IMAGE_CODES - 1, model.bits.first + 77])
    hidden = torch.randn(3, 32)
    embeds, logits = model.bits.embed(ids), model.bits.logits(hidden)
    assert not torch.allclose(embeds, model.omni.embed(ids))
    model.bits.fold()
    torch.testing.assert_close(model.omni.embed(ids), embeds)
    torch.testing.assert_close(model.omni.logits(hidden), logits)


def test_speech_rows_start_out_near_their_tokens(pools: Pools, model: Learner) -> None:
    heard = [np.random.default_rng(0).standard_normal((40, 32)).astype(np.float16)]
    first = align_speech.fit(model.omni, heard, steps=1)
    assert align_speech.fit(model.omni, heard, steps=300) < 0.3 * first


def test_free_scenes_do_not_touch() -> None:
    rng = random.Random(9)
    for _ in range(100):
        things = free_scene(rng).things
        assert all(
            (a.x - b.x) ** 2 + (a.y - b.y) ** 2 > (a.radius + b.radius) ** 2
            for i, a in enumerate(things)
            for b in things[:i]
        )
