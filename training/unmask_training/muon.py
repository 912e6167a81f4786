"""Muon for the matrices of a transformer's layers: momentum, made orthogonal (Keller Jordan, 2024).

As torch.optim.Muon computes it, except that matrices of one shape go through the iteration together: one by one each
takes some forty launches of small kernels.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from unmask_engine.bfloat16 import multiplies_bfloat16
from unmask_training.parallel import split_like, whole

_QUINTIC = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration, from Jordan's write-up
_STEPS = 5
_EPS = 1e-7
_RMS = 0.2  # of AdamW's updates, so that both take the same learning rates (arXiv 2502.16982)


def orthogonal(matrices: Tensor) -> Tensor:
    """(N, rows, columns) -> about U V^T of each one's singular value decomposition.

    In bfloat16, which is enough, where the device multiplies it.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16() if multiplies_bfloat16(matrices.device) else matrices
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_EPS)
    a, b, c = _QUINTIC
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """Of matrices that may be split over processes (parallel.shard), which are then gathered for the iteration."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. There is no closure to call."""
        for group in self.param_groups:
            learnt = [p for p in group["params"] if p.grad is not None]
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in learnt:
                alike[p.shape].append(p)
            torch._foreach_mul_(learnt, 1 - group["lr"] * group["weight_decay"])
            for shape, parameters in alike.items():
                ahead = torch.stack([whole(self._momentum(p, group["momentum"])) for p in parameters])
                rate = group["lr"] * _RMS * max(shape) ** 0.5
                for p, update in zip(parameters, orthogonal(ahead).to(ahead.dtype), strict=True):
                    p.sub_(split_like(update, p), alpha=rate)

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        """Nesterov's: the average of gradients, one gradient ahead."""
        assert p.grad is not None  # the caller looked
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p.grad)
        buffer: Tensor = state["momentum_buffer"]
        buffer.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)
