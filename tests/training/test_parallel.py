"""A stage in two processes: averaged or split (FSDP2), it trains as one process does on the batches of both."""

import multiprocessing
import os
import random
import runpy
import shutil
import socket
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from unmask_engine.models.backbone import BackboneConfig
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoderConfig
from unmask_training import parallel, train_backbone
from unmask_training.batches import BatchStream, exercise
from unmask_training.loop import Schedule, Training
from unmask_training.pools import Pools
from unmask_training.sequences import Writer
from unmask_training.shared_bits import SharedBits
from unmask_training.train_backbone import Learner, learning_loss
from unmask_training.vocabulary import build_tokenizer
from unmask_training.world import free_scene

HALF, STEPS = 3, 6
TASKS = "vqa", "chat"  # of the first process and of the second: only one has use for the heads that look at pictures
AS_PROCESS = "one of two"  # the name under which this file runs in a process of its own


def in_float32(device: torch.device) -> Any:
    """So that nothing but the order of sums differs."""
    return nullcontext()


def learner(work: Path) -> tuple[Learner, Pools]:
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    torch.manual_seed(0)
    speech = SpeechEncoderConfig(size=32, num_heads=2, ffn_size=32, num_layers=2, num_tp_layers=1, ctc_vocab=5)
    omni = OmniModel(BackboneConfig(tokenizer.get_vocab_size(), 32, 64, 5, 2, 1), speech)
    train_backbone.initialise(omni)
    rng = random.Random(0)
    seen = [(free_scene(rng), [rng.randrange(4096) for _ in range(64)]) for _ in range(4)]
    bits = torch.randn(4096, 12).sign()
    model = Learner(SharedBits(omni, tokenizer.token_to_id("<|image_0|>"), bits))
    model.freeze_ears()
    return model, Pools(Writer(tokenizer, []), seen, seen)


def train(work: Path, out: Path, split: bool, matrix_rate: float, steps: int, mine: range) -> tuple[Training, str]:
    """Until `steps` are done, on the batches `mine` of each step's two; saved there. Also the loss of every step."""
    model, pools = learner(work)
    if split:
        model.shard()
    how = Schedule(1.0, 3e-3, matrix_rate, warmup_steps=2, ema_decay=0.9, accumulate=len(mine), weight_decay=0.0)
    training = Training(model, how, out)
    losses = []
    while training.step < steps:
        turns = iter(mine)

        def loss_of(step: int, turns: Any = turns) -> tuple[torch.Tensor, dict[str, float]]:
            i = next(turns)
            batch = next(BatchStream(pools, {TASKS[i]: 1.0}, 200, random.Random(step)))
            return learning_loss(model, exercise([batch], pools.writer.mask, [], torch.Generator().manual_seed(step)))

        loss, _, _ = training._optimise(loss_of)
        training.step += 1
        losses.append(float(loss))
    training.save()
    return training, " ".join(map(str, losses))


def one_of_two(environment: dict[str, str], work: Path, out: Path, split: bool, matrix_rate: float, steps: int) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    train_backbone.mixed = in_float32
    parallel.join(torch.device("cpu"))
    rank = parallel.rank()
    training, losses = train(work, out, split, matrix_rate, steps, range(rank, rank + 1))
    kept = sum(p.to_local().numel() if split else p.numel() for p in training.parameters)  # type: ignore[attr-defined]
    (out / f"losses-{rank}-{steps}").write_text(losses)
    (out / f"kept-{rank}").write_text(str(kept))
    parallel.leave()


def two_processes(work: Path, out: Path, split: bool, matrix_rate: float, steps: int) -> list[float]:
    """The mean of their losses in each step."""
    from_here = multiprocessing.get_context("forkserver")
    from_here.set_forkserver_preload(["unmask_training.train_backbone", "torch.distributed.fsdp"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    processes = []
    for rank in ("0", "1"):
        given = {"ARGUMENTS": ({**where, "RANK": rank, "LOCAL_RANK": rank}, work, out, split, matrix_rate, steps)}
        processes.append(from_here.Process(target=runpy.run_path, args=(__file__, given, AS_PROCESS)))
        processes[-1].start()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0, 0]
    ours, theirs = ([float(x) for x in (out / f"losses-{rank}-{steps}").read_text().split()] for rank in (0, 1))
    return [(a + b) / 2 for a, b in zip(ours, theirs, strict=True)]


def learnt(model: Learner) -> list[tuple[str, torch.Tensor]]:
    """What is trained, but for what attention cannot tell from nothing: one bias added to all keys."""
    trained = [(name, p.detach()) for name, p in model.named_parameters() if p.requires_grad]
    return [(name, p) for name, p in trained if not name.endswith("k_proj.bias")]


def weights(work: Path, out: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All of a checkpoint's, and all of its averages, in one row each."""
    model, _ = learner(work)
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    assert saved["step"] == STEPS
    model.load_state_dict(saved["model"])
    plain = torch.cat([p.flatten() for _, p in learnt(model)])
    model.load_averaged(saved)
    return plain, torch.cat([p.flatten() for _, p in learnt(model)])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    build_tokenizer(0, folder / "tokenizer.json")
    return folder


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("split", "matrix_rate"),
    [
        (True, 3e-3),
        pytest.param(False, 3e-3, marks=pytest.mark.slow),
        pytest.param(True, 0.0, marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one_does(
    work: Path, tmp_path: Path, split: bool, matrix_rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So they do when they are stopped half-way, and when one process goes on from there."""
    monkeypatch.setattr(train_backbone, "mixed", in_float32)
    whole, two, one = (tmp_path / name for name in ("whole", "two", "one"))
    training, expected = train(work, whole, False, matrix_rate, STEPS, range(2))
    losses = two_processes(work, two, split, matrix_rate, HALF)
    shutil.copytree(two, one)
    losses += two_processes(work, two, split, matrix_rate, STEPS)
    # Muon's matrices are rounded to bfloat16 on their way.
    assert losses == pytest.approx([float(x) for x in expected.split()], rel=2e-3 if matrix_rate else 1e-4)
    train(work, one, False, matrix_rate, STEPS, range(2))
    start = torch.cat([p.flatten() for _, p in learnt(learner(work)[0])])
    for found in (two, one):
        for ours, theirs in zip(weights(work, found), weights(work, whole), strict=True):
            assert (ours - theirs).norm() < 0.02 * (theirs - start).norm()
    count = sum(p.numel() for p in training.parameters)
    kept = [int((two / f"kept-{rank}").read_text()) for rank in (0, 1)]
    assert max(kept) < 0.51 * count if split else kept == [count, count]
    assert sum(kept) == (count if split else 2 * count)


if __name__ == AS_PROCESS:
    one_of_two(*ARGUMENTS)  # type: ignore[name-defined] # noqa: F821
