"""How many positions each step commits: a pure function of (masked positions, steps). Source: decoding.md, Schedule."""

import math
from functools import lru_cache

import torch

EPS = 1e-3  # time at which the process ends; the reference's constant


def commit_count(masked: int, step: int, steps: int) -> int:
    """Positions to commit at `step` (0-based) of `steps` while `masked` are open; all of them at the last step.

    `max(1, int(masked * (1 - t[step + 1] / t[step])))` over t = linspace(1, EPS, steps + 1), all in float32.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step {step} lies outside 0..{steps - 1}")
    if step == steps - 1:
        return masked
    return min(masked, max(1, int(torch.tensor(masked, dtype=torch.float32) * _fractions(steps)[step])))


def commit_counts(masked: int, steps: int) -> tuple[int, ...]:
    """The counts of all steps until nothing is masked; shorter than `steps` where one position a step is enough."""
    counts: list[int] = []
    while masked > 0:
        counts.append(commit_count(masked, len(counts), steps))
        masked -= counts[-1]
    return tuple(counts)


def commit_probability(step: int, steps: int) -> float:
    """Chance with which algorithm `origin` commits each masked position at `step`: 1 - s/t, and 1 at the last step."""
    return 1.0 if step == steps - 1 else float(_fractions(steps)[step])


def block_steps(length: int, block_size: int | None, steps: int) -> tuple[int, ...]:
    """The steps of each block of a canvas of `length`: its share of `steps`, at least one. None is one block.

    The share is `int(block / length * steps)` in double precision, as in the reference, which gives a block less than
    one step when steps are few and then leaves it masked.
    """
    size = length if block_size is None else min(block_size, length)
    if size < 1 or steps < 1:
        raise ValueError(
            f"a canvas needs a length, a block size and steps of at least 1, not {length}, {size}, {steps}"
        )
    blocks = (min(size, length - start) for start in range(0, math.ceil(length / size) * size, size))
    return tuple(max(1, int(block / length * steps)) for block in blocks)


@lru_cache(maxsize=4096)
def _fractions(steps: int) -> torch.Tensor:
    times = torch.linspace(1, EPS, steps + 1, dtype=torch.float32, device="cpu")
    return 1 - times[1:] / times[:-1]  # (steps,)
