"""Exercises drawn by other processes, and several batches packed into one."""

import random
from itertools import islice

import numpy as np
import torch

from unmask_training.batches import BatchStream, Curriculum, Exercise, exercise
from unmask_training.pools import Pools
from unmask_training.prefetch import exercises
from unmask_training.spread import spread

MIXTURE = {"vqa": 0.3, "asr": 0.3, "svqa": 0.2, "tts": 0.2}


def rows() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, 32)).astype(np.float16) for n in (9, 12, 6)]


def curriculum(pools: Pools, blocks: int = 2) -> Curriculum:
    return Curriculum(pools, rows(), MIXTURE, 300, blocks, 0.5, 0.6)


def same(a: Exercise, b: Exercise) -> bool:
    tensors = ("ids", "hidden", "answers", "weights", "rows", "at")
    return a.lengths == b.lengths and all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)


def test_processes_draw_what_this_one_would_draw(pools: Pools) -> None:
    drawn = list(islice(exercises(curriculum(pools), 5, workers=2), 4))
    again = list(islice(exercises(curriculum(pools), 5, workers=2), 4))
    assert all(same(a, b) for a, b in zip(drawn, again, strict=True))
    assert not same(drawn[0], drawn[1])  # they draw from seeds of their own
    alone = next(exercises(curriculum(pools), 5, workers=0))
    assert same(alone, next(exercises(curriculum(pools), 5, workers=0)))


def test_batches_are_packed_end_to_end(pools: Pools) -> None:
    stream = BatchStream(pools, MIXTURE, 300, random.Random(1))
    batches = [next(stream) for _ in range(3)]
    mask = pools.writer.mask
    packed = exercise(batches, mask, rows(), torch.Generator().manual_seed(0))
    ids = torch.cat([b.ids.flatten() for b in batches])
    assert sum(packed.lengths) == len(ids) == len(packed.ids)
    assert torch.equal(ids[packed.hidden], packed.answers)
    assert bool((packed.ids[packed.hidden] == mask).all())
    shown = torch.ones(len(ids), dtype=torch.bool).index_fill(0, packed.hidden, False)
    assert torch.equal(packed.ids[shown], ids[shown])
    # The rows of speech stand where the prompt keeps places for them.
    assert bool((ids[packed.at] == pools.writer.id("<|context_of_audio|>")).all())
    assert int((ids == pools.writer.id("<|context_of_audio|>")).sum()) == len(packed.at) == len(packed.rows)
    # Every sequence weighs the square root of what it hides.
    sequence = torch.repeat_interleave(torch.arange(len(packed.lengths)), torch.tensor(packed.lengths))
    weight = torch.zeros(len(packed.lengths)).index_add(0, sequence[packed.hidden], packed.weights)
    count = torch.bincount(sequence[packed.hidden], minlength=len(packed.lengths))
    torch.testing.assert_close(weight, count.float().sqrt())
    # What the second batch names is named where it lies.
    first = batches[0].ids.numel()
    second = [row for row in packed.labels.patches.rows.tolist() if first <= row < first + batches[1].ids.numel()]
    assert second == (batches[1].labels.patches.rows + first).tolist()


def test_work_is_spread_in_order() -> None:
    assert spread(lambda i: i * i, range(500)) == [i * i for i in range(500)]
    assert spread(lambda i: -i, range(3)) == [0, -1, -2]
