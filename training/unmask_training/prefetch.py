"""Exercises drawn ahead by other processes: a GPU takes a step in less time than one core needs to draw it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from unmask_training.batches import Curriculum, Exercise

_AHEAD = 2  # exercises that wait in each process
_APART = 1_000_003  # between the processes' seeds


class _Drawn(IterableDataset[Exercise]):
    def __init__(self, curriculum: Curriculum, seed: int) -> None:
        self.curriculum, self.seed = curriculum, seed

    def __iter__(self) -> Iterator[Exercise]:
        torch.set_num_threads(1)
        info = get_worker_info()
        assert info is not None  # only the processes iterate
        return self.curriculum.exercises(self.seed + _APART * (1 + info.id))


def exercises(curriculum: Curriculum, seed: int, workers: int) -> Iterator[Exercise]:
    """Without end, drawn by so many forked processes in turn; by this one where there are none.

    Forked, since all share the recordings' rows. The order does not depend on their speed.
    """
    if not workers:
        return curriculum.exercises(seed)
    loader: DataLoader[Any] = DataLoader(
        _Drawn(curriculum, seed), batch_size=None, num_workers=workers, prefetch_factor=_AHEAD,
        multiprocessing_context="fork",
    )  # fmt: skip
    return iter(loader)
