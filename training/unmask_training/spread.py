"""Work on many items by all cores: recordings are synthesised by other programs, features computed one by one."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_CHUNK = 32
_task: Callable[[object], object] | None = None  # of the processes being forked


def spread(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`[function(item) for item in items]`, in forked processes where there is enough to do.

    They inherit the function, which may be any closure. Where something fails there, it is raised here.
    """
    global _task
    cores = len(os.sched_getaffinity(0))
    if len(items) < 2 * _CHUNK or cores == 1:
        return [function(item) for item in items]
    _task = function  # type: ignore[assignment]
    try:
        with multiprocessing.get_context("fork").Pool(cores, _begin) as pool:
            return pool.map(_run, items, _CHUNK)  # type: ignore[arg-type]
    finally:
        _task = None


def _begin() -> None:
    import torch

    torch.set_num_threads(1)  # a core has a process


def _run(item: object) -> object:
    assert _task is not None  # set before this process was forked
    return _task(item)
