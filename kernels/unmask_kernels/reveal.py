"""Which of the sampled rows are committed. Source: decoding.md, One step, 8."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from unmask_kernels.noise import gumbel

BY_RANK = -1.0  # RevealParams.probability of a row whose algorithm ranks


@dataclass(frozen=True)
class RevealParams:
    """How the rows of G requests are committed; those of a request stand together, in the order of their positions."""

    request: Tensor  # (R,) int64, rising, in 0..G-1
    counts: Tensor  # (G,) int64, rows to commit; not looked at for algorithm `origin`
    temperature: Tensor  # (R,) float32, the algorithm temperature; 0 takes the most confident rows
    uniform: Tensor  # (R,) float32 in (0, 1), noise.uniform of the reveal stream
    probability: Tensor  # (R,) float32, chance of each row to be committed for `origin`, else BY_RANK


Implementation = Literal["reference", "triton"]


def reveal(confidence: Tensor, params: RevealParams, *, impl: Implementation = "reference") -> Tensor:
    """The rows to commit: confidence (R,) -> (R,) bool.

    The `counts` most confident rows of each request, equal confidence in the order of the positions. With an algorithm
    temperature they are drawn from softmax(confidence / temperature) without replacement instead (Gumbel top-k).
    Rows of `origin` are committed each with its own probability.
    """
    return _IMPLEMENTATIONS[impl](confidence, params)


def _reveal_reference(confidence: Tensor, params: RevealParams) -> Tensor:
    is_drawn = params.temperature > 0
    noisy = confidence / torch.where(is_drawn, params.temperature, 1) + gumbel(params.uniform)
    scores = torch.where(is_drawn, noisy, confidence)
    order = torch.sort(scores, descending=True, stable=True).indices
    order = order[torch.sort(params.request[order], stable=True).indices]
    sizes = torch.bincount(params.request, minlength=len(params.counts))
    starts = torch.cumsum(sizes, dim=0) - sizes
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - starts[params.request]
    by_rank = rank < params.counts[params.request]
    return torch.where(params.probability == BY_RANK, by_rank, params.uniform < params.probability)


def _reveal_triton(confidence: Tensor, params: RevealParams) -> Tensor:
    from unmask_kernels.triton_reveal import reveal_triton

    return reveal_triton(confidence, params)


_IMPLEMENTATIONS: Final[Mapping[Implementation, Callable[[Tensor, RevealParams], Tensor]]] = {
    "reference": _reveal_reference,
    "triton": _reveal_triton,
}
