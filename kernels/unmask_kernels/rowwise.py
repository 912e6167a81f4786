"""What a layer does to each row between its products: residual sum and RMS norm, rotary positions, gate.

A row's result depends on that row alone. Source: reference/decoding.md "Model"; each rounding stands where it does
there.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Implementation = Literal["reference", "triton"]


def add_norm(
    x: Tensor,
    delta: Tensor | None,
    weight: Tensor,
    eps: float,
    *,
    rows: Tensor | None = None,
    impl: Implementation = "reference",
) -> tuple[Tensor, Tensor]:
    """The sum that runs past the layers and its norm: x (T, H) and what is added to it -> both (T, H).

    With `rows` (R,) of `x`, `delta` (R, H) is added to those alone, and both are (R, H). The sum keeps the dtype of
    `x`. The norm is taken in float32, rounded to that dtype, and has the dtype of `weight` (H,) after it.
    """
    if impl == "triton":
        from unmask_kernels.triton_rowwise import add_norm_triton

        return add_norm_triton(x, delta, weight, eps, rows)
    if rows is not None:
        x = x[rows]
    if delta is not None:
        x = x + delta
    return x, (weight * F.rms_norm(x, weight.shape, None, eps)).to(weight.dtype)


def rotate(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    rows: Tensor | None = None,
    impl: Implementation = "reference",
) -> tuple[Tensor, Tensor]:
    """Rotary positions: q (T, heads, D), k (T, kv_heads, D) -> the same, in their dtype.

    cos, sin: (T, 1, D) float32, each half of D the same. With `rows` (R,) of them, q is (R, heads, D).
    """
    if impl == "triton":
        from unmask_kernels.triton_rowwise import rotate_triton

        return rotate_triton(q, k, cos, sin, rows)
    turned = _turned(k, cos, sin)
    return _turned(q, cos, sin) if rows is None else _turned(q, cos[rows], sin[rows]), turned


def gate(gated: Tensor, up: Tensor, *, impl: Implementation = "reference") -> Tensor:
    """silu(gated) * up, both (T, I) -> (T, I)."""
    if impl == "triton":
        from unmask_kernels.triton_rowwise import gate_triton

        return gate_triton(gated, up)
    return F.silu(gated) * up


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat((-high, low), dim=-1) * sin.to(x.dtype)
