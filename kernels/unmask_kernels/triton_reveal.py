"""`reveal` in Triton: a row's rank is how many rows of its request come before it, so nothing is sorted."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels.reveal import BY_RANK, RevealParams
from unmask_kernels.triton_support import LAUNCH, ONE_BINARY, gumbel, order, require_device

_BLOCK = 64  # rows of a program, and rows they are compared with at a time

_BY_RANK = tl.constexpr(BY_RANK)


def reveal_triton(confidence: Tensor, params: RevealParams) -> Tensor:
    """See `reveal`. The host does not wait for the device."""
    require_device(confidence)
    num_rows = len(confidence)
    is_committed = torch.empty_like(confidence, dtype=torch.int8)
    if num_rows == 0:
        return is_committed != 0
    request = params.request.contiguous()
    # (G + 1,): the rows of request g are first_rows[g] up to first_rows[g + 1].
    first_rows = torch.searchsorted(request, torch.arange(len(params.counts) + 1, device=request.device))
    keys = torch.empty_like(confidence, dtype=torch.int32)
    grid = (triton.cdiv(num_rows, _BLOCK),)
    uniform = params.uniform.contiguous()
    meta = {"BLOCK": _BLOCK, "num_warps": 4, **LAUNCH}
    _score_kernel[grid](confidence.contiguous(), params.temperature.contiguous(), uniform, keys, num_rows, **meta)
    _rank_kernel[grid](
        keys,
        request,
        first_rows,
        params.counts.contiguous(),
        uniform,
        params.probability.contiguous(),
        is_committed,
        num_rows,
        **meta,
    )
    return is_committed != 0


@triton.jit(**ONE_BINARY)
def _score_kernel(confidence_ptr, temperature_ptr, uniform_ptr, keys_ptr, num_rows, BLOCK: tl.constexpr):
    """What rows are ranked by: their confidence, or with an algorithm temperature a Gumbel draw around it.

    As integers of the same order, in which nan comes first, as in `torch.sort`: were it neither ahead of a row nor
    behind it, a request with one would commit more rows than its count.
    """
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row = rows < num_rows
    confidence = tl.load(confidence_ptr + rows, mask=is_row, other=0.0)
    temperature = tl.load(temperature_ptr + rows, mask=is_row, other=0.0)
    draws = tl.load(uniform_ptr + rows, mask=is_row, other=0.5)
    noisy = tl.div_rn(confidence, tl.where(temperature > 0, temperature, 1.0)) + gumbel(draws)
    scores = tl.where(temperature > 0, noisy, confidence)
    tl.store(keys_ptr + rows, tl.where(scores != scores, 0x7FFFFFFF, order(scores)), mask=is_row)


@triton.jit(**ONE_BINARY)
def _rank_kernel(
    keys_ptr,  # (R,) int32
    request_ptr,  # (R,)
    first_rows_ptr,  # (G + 1,)
    counts_ptr,  # (G,)
    uniform_ptr,  # (R,)
    probability_ptr,  # (R,)
    is_committed_ptr,  # (R,) int8
    num_rows,
    BLOCK: tl.constexpr,
):
    """A program ranks BLOCK rows against all rows of their requests, which stand together."""
    first = tl.program_id(0) * BLOCK
    last = tl.minimum(first + BLOCK, num_rows) - 1
    rows = first + tl.arange(0, BLOCK)
    is_row = rows < num_rows
    keys = tl.load(keys_ptr + rows, mask=is_row, other=0)
    requests = tl.load(request_ptr + rows, mask=is_row, other=0)
    rank = tl.zeros((BLOCK,), dtype=tl.int32)
    start = tl.load(first_rows_ptr + tl.load(request_ptr + first)).to(tl.int32)
    stop = tl.load(first_rows_ptr + tl.load(request_ptr + last) + 1).to(tl.int32)
    for block in range(start, stop, BLOCK):
        others = block + tl.arange(0, BLOCK)
        is_other = others < stop
        other_keys = tl.load(keys_ptr + others, mask=is_other, other=0)
        other_requests = tl.load(request_ptr + others, mask=is_other, other=-1)
        is_ahead = (other_keys[None, :] > keys[:, None]) | (
            (other_keys[None, :] == keys[:, None]) & (others[None, :] < rows[:, None])
        )
        is_ahead &= other_requests[None, :] == requests[:, None]
        rank += tl.sum(is_ahead.to(tl.int32), axis=1)
    count = tl.load(counts_ptr + requests, mask=is_row, other=0)
    draws = tl.load(uniform_ptr + rows, mask=is_row, other=0.5)
    probability = tl.load(probability_ptr + rows, mask=is_row, other=0.0)
    is_committed = tl.where(probability == _BY_RANK, rank < count, draws < probability)
    tl.store(is_committed_ptr + rows, is_committed.to(tl.int8), mask=is_row)
