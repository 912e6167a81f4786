"""The score by which masked positions are ranked, one pure function an algorithm. Source: decoding.md, One step, 7."""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from unmask_kernels.ordered import row_sum


def negative_entropy(probs: Tensor, chosen: Tensor) -> Tensor:
    """Sum of p log(p + 1e-10): probs (R, W), chosen (R,) -> (R,), at most 0; exactly 0 for a single candidate."""
    return row_sum(probs * torch.log(probs + 1e-10))


def top_probability(probs: Tensor, chosen: Tensor) -> Tensor:
    """Probability of the chosen token."""
    return chosen


def top_two_margin(probs: Tensor, chosen: Tensor) -> Tensor:
    """Largest less second largest probability; a single candidate has 0 beside it."""
    first, second = torch.topk(F.pad(probs, (0, 1)), 2, dim=1).values.unbind(dim=1)
    return first - second


def no_confidence(probs: Tensor, chosen: Tensor) -> Tensor:
    """`origin` commits by chance, not by rank."""
    return torch.zeros_like(chosen)


CONFIDENCE: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "entropy": negative_entropy,
    "entropy-penalty": negative_entropy,
    "maskgit_plus": top_probability,
    "topk_margin": top_two_margin,
    "origin": no_confidence,
}
ALGORITHMS: Final = tuple(CONFIDENCE)  # a row names its algorithm by the index in here
