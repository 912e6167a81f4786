"""`rowwise` in Triton: a launch an operation, each tensor read and written once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels.triton_support import LAUNCH, require_device

_SPAN = 1024  # columns of a program of `gate`
_ROWS, _HEADS = 4, 4  # of a program of `rotate`


def add_norm_triton(
    x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `add_norm`. Every tensor is contiguous."""
    require_device(x)
    num_rows, size = len(x) if rows is None else len(rows), x.shape[1]
    assert delta is None or delta.shape == (num_rows, size)
    assert weight.shape == (size,)
    assert all(tensor is None or tensor.is_contiguous() for tensor in (x, delta, weight, rows))
    total = x if delta is None and rows is None else x.new_empty(num_rows, size)
    normed = torch.empty_like(total, dtype=weight.dtype)
    if num_rows:
        block = triton.next_power_of_2(size)
        _add_norm_kernel[(num_rows,)](
            x,
            x if delta is None else delta,
            x if rows is None else rows,
            weight,
            total,
            normed,
            eps,
            size,
            HAS_DELTA=delta is not None,
            HAS_ROWS=rows is not None,
            BLOCK=block,
            num_warps=min(max(block // 512, 1), 16),
        )
    return total, normed


def rotate_triton(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """See `rotate`. Rows of q and k may stand apart; else every tensor is contiguous."""
    require_device(q)
    num_q, num_heads, size = q.shape
    num_k, num_kv_heads, _ = k.shape
    assert cos.shape == sin.shape == (num_k, 1, size)
    assert num_q == (num_k if rows is None else len(rows))
    assert all(tensor is None or tensor.is_contiguous() for tensor in (cos, sin, rows))
    assert all(num_rows == 0 or x[0].is_contiguous() for num_rows, x in ((num_q, q), (num_k, k)))
    turned_q, turned_k = q.new_empty(q.shape), k.new_empty(k.shape)
    blocks = tuple(triton.cdiv(heads, _HEADS) for heads in (num_heads, num_kv_heads))
    if num_k:
        _rotate_kernel[(triton.cdiv(max(num_q, num_k), _ROWS), sum(blocks))](
            q,
            k,
            cos,
            sin,
            q if rows is None else rows,
            turned_q,
            turned_k,
            num_q,
            num_k,
            q.stride(0),
            k.stride(0),
            NUM_HEADS=num_heads,
            NUM_KV_HEADS=num_kv_heads,
            HALF=size // 2,
            BLOCK_HALF=triton.next_power_of_2(size // 2),
            HAS_ROWS=rows is not None,
            ROWS=_ROWS,
            HEADS=_HEADS,
            num_warps=4,
            **LAUNCH,
        )
    return turned_q, turned_k


def gate_triton(gated: Tensor, up: Tensor) -> Tensor:
    """See `gate`. Rows may stand apart."""
    require_device(gated)
    assert gated.shape == up.shape
    assert gated.stride(1) == up.stride(1) == 1
    num_rows, size = gated.shape
    out = gated.new_empty(num_rows, size)
    if num_rows:
        grid = (num_rows, triton.cdiv(size, _SPAN))
        _gate_kernel[grid](gated, up, out, gated.stride(0), up.stride(0), size, SPAN=_SPAN, num_warps=4)
    return out


@triton.jit
def _add_norm_kernel(
    x_ptr,
    delta_ptr,
    rows_ptr,
    weight_ptr,
    total_ptr,
    normed_ptr,
    eps,
    size,
    HAS_DELTA: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program a row."""
    row = tl.program_id(0).to(tl.int64)
    source = tl.load(rows_ptr + row) if HAS_ROWS else row
    columns = tl.arange(0, BLOCK)
    is_inside = columns < size
    x = tl.load(x_ptr + source * size + columns, mask=is_inside, other=0.0)
    if HAS_DELTA:
        delta = tl.load(delta_ptr + row * size + columns, mask=is_inside, other=0.0)
        x = (x.to(tl.float32) + delta.to(tl.float32)).to(x.dtype)
    if HAS_DELTA or HAS_ROWS:
        tl.store(total_ptr + row * size + columns, x, mask=is_inside)
    values = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=0) / size + eps)
    normed = (values * scale).to(x.dtype).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=is_inside, other=0.0)
    tl.store(normed_ptr + row * size + columns, (weight.to(tl.float32) * normed).to(weight.dtype), mask=is_inside)


@triton.jit
def _rotate_kernel(
    q_ptr,
    k_ptr,
    cos_ptr,
    sin_ptr,
    rows_ptr,
    turned_q_ptr,
    turned_k_ptr,
    num_q,
    num_k,
    q_stride,
    k_stride,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    ROWS: tl.constexpr,
    HEADS: tl.constexpr,
):
    """A program some rows of some heads, of q or of k."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    block = tl.program_id(1)
    num_blocks: tl.constexpr = (NUM_HEADS + HEADS - 1) // HEADS
    # fmt: off
    if block < num_blocks:
        is_row = rows < num_q
        places = tl.load(rows_ptr + rows, mask=is_row, other=0) if HAS_ROWS else rows
        _turn(
            q_ptr, q_stride, cos_ptr, sin_ptr, turned_q_ptr, rows, places, is_row, block * HEADS, NUM_HEADS, HALF,
            BLOCK_HALF, HEADS,
        )
    else:
        _turn(
            k_ptr, k_stride, cos_ptr, sin_ptr, turned_k_ptr, rows, rows, rows < num_k, (block - num_blocks) * HEADS,
            NUM_KV_HEADS, HALF, BLOCK_HALF, HEADS,
        )
    # fmt: on


@triton.jit
def _turn(
    x_ptr,
    stride,
    cos_ptr,
    sin_ptr,
    turned_ptr,
    rows,
    places,
    is_row,
    first_head,
    NUM_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    HEADS: tl.constexpr,
):
    heads = first_head + tl.arange(0, HEADS)
    columns = tl.arange(0, BLOCK_HALF)
    in_table = is_row[:, None] & (columns < HALF)[None, :]
    table = places.to(tl.int64)[:, None] * (2 * HALF) + columns[None, :]
    dtype = x_ptr.dtype.element_ty
    cos = tl.load(cos_ptr + table, mask=in_table, other=0.0).to(dtype).to(tl.float32)[:, None, :]
    sin = tl.load(sin_ptr + table, mask=in_table, other=0.0).to(dtype).to(tl.float32)[:, None, :]
    inside = (heads[:, None] * (2 * HALF) + columns[None, :])[None, :, :]
    rows = rows.to(tl.int64)[:, None, None]
    is_inside = in_table[:, None, :] & (heads < NUM_HEADS)[None, :, None]
    low = tl.load(x_ptr + rows * stride + inside, mask=is_inside, other=0.0).to(tl.float32)
    high = tl.load(x_ptr + rows * stride + inside + HALF, mask=is_inside, other=0.0).to(tl.float32)
    turned_low = (low * cos).to(dtype).to(tl.float32) - (high * sin).to(dtype).to(tl.float32)
    turned_high = (high * cos).to(dtype).to(tl.float32) + (low * sin).to(dtype).to(tl.float32)
    at = turned_ptr + rows * (2 * HALF * NUM_HEADS) + inside
    tl.store(at, turned_low.to(dtype), mask=is_inside)
    tl.store(at + HALF, turned_high.to(dtype), mask=is_inside)


@triton.jit
def _gate_kernel(gated_ptr, up_ptr, out_ptr, gated_stride, up_stride, size, SPAN: tl.constexpr):
    """A program SPAN columns of a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * SPAN + tl.arange(0, SPAN)
    is_inside = columns < size
    gated = tl.load(gated_ptr + row * gated_stride + columns, mask=is_inside, other=0.0)
    up = tl.load(up_ptr + row * up_stride + columns, mask=is_inside, other=0.0)
    value = gated.to(tl.float32)
    silu = tl.div_rn(value, 1.0 + tl.exp(-value)).to(gated.dtype)
    out = (silu.to(tl.float32) * up.to(tl.float32)).to(up.dtype)
    tl.store(out_ptr + row * size + columns, out, mask=is_inside)
