"""Repetition and position penalty, on the filtered logits. Source: decoding.md, One step, 5 and 6."""

import torch
from torch import Tensor

FREE_RANKS = 100  # rows from the left that the position penalty spares; it is off while no more rows than this are open


def penalise(logits: Tensor, strength: Tensor) -> Tensor:
    """Make logits worse by a factor: z < 0 -> z * strength, z >= 0 -> z / strength. -inf stays."""
    return torch.where(logits < 0, logits * strength, logits / strength)


def penalise_repetition(logits: Tensor, ids: Tensor, strength: Tensor, seen: Tensor, seen_row: Tensor) -> Tensor:
    """Penalise, once, each candidate that the answer already holds: logits, ids (R, W) -> (R, W).

    `strength` (R,); `seen` (G, V) bool, the ids in the answer of each of G requests; `seen_row` (R,) in 0..G-1.
    """
    is_repeated = seen[seen_row.unsqueeze(1), ids]
    return torch.where(is_repeated, penalise(logits, strength.unsqueeze(1)), logits)


def position_strength(rank: Tensor, num_masked: Tensor, maximum: Tensor) -> Tensor:
    """Strength by which a row's logits are penalised: all (R,), -> (R,) float32.

    `rank` counts the request's masked positions from the left, not its positions; `num_masked` is how many there are.
    1 below FREE_RANKS, then rising linearly towards `maximum`, which is never reached.
    """
    beyond = (rank - FREE_RANKS).clamp_min(0).float()
    span = (num_masked - FREE_RANKS).clamp_min(1).float()
    return 1 + beyond / span * (maximum.float() - 1)
