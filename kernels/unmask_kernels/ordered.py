"""Row sums whose rounding depends on the row alone, so that a request's tokens do not depend on its batch.

`torch.sum` picks its order of additions from the whole tensor's shape (and, with threads, from their number). Here a
row is folded onto itself, right half onto left half, as if it were padded with zeros to a power of two: the order is
fixed, zeros appended to a row change nothing, and a Triton block can add in the same order.
"""

from torch import Tensor, exp


def row_sum(values: Tensor) -> Tensor:
    """Sum over the last dimension: (..., W) -> (...)."""
    return row_sum_(values.clone())


def row_sum_(values: Tensor) -> Tensor:
    """`row_sum` without a copy: it overwrites `values`, and the sums are a view of them."""
    width = values.shape[-1]
    while width > 1:
        half = 1 << (width - 1).bit_length() - 1  # largest power of two below the width
        values[..., : width - half] += values[..., half:width]
        width = half
    return values[..., 0]


def row_softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension with `row_sum` as its sum; -inf becomes 0. (R, W) -> (R, W)."""
    weights = exp(logits - logits.amax(dim=-1, keepdim=True))
    return weights / row_sum(weights).unsqueeze(-1)
