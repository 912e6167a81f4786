"""Device functions that the Triton kernels share, each the twin of a torch function named in its docstring.

What decides a token or a tie is rounded as the reference rounds it: IEEE division (`/` of float32 is approximate on
CUDA), no fused multiply-add (`LAUNCH`), sums in the order of `ordered.row_sum`, and exp and log through float64, which
also keeps a row's result the same on every device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels.noise import TOKEN_STREAM
from unmask_kernels.rows import RowParams

LAUNCH: Final[Mapping[str, Any]] = {"enable_fp_fusion": False}
# Of a kernel's jit: one binary for any number of rows, wherever a row's parameters lie. Else Triton compiles another,
# for seconds, in the midst of a step, when the number is first a multiple of 16 or a slice first begins elsewhere.
ONE_BINARY: Final[Mapping[str, Any]] = {
    "do_not_specialize": ["num_rows"],
    "do_not_specialize_on_alignment": [
        f"{name}_ptr"
        for name in (
            *("algorithm", "allowed", "counts", "guidance", "guided_row", "never", "position", "probability"),
            *("repetition", "request", "seed", "step", "strength", "temperature", "top_k", "top_p", "uniform"),
        )
    ],
}
LOWEST = tl.constexpr(torch.finfo(torch.float32).min)  # stands in for -inf where it is subtracted
_STREAM = tl.constexpr(TOKEN_STREAM)


def require_device(tensor: Tensor) -> None:
    """Compiled kernels want CUDA tensors; under Triton's interpreter any will do."""
    if not (tensor.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"impl='triton' needs CUDA tensors, not {tensor.device.type}, or TRITON_INTERPRET=1")


@dataclass(frozen=True)
class RowArguments:
    """Arguments by which kernels read rows, in the order of the device functions' parameters."""

    logits: tuple[Tensor, ...]  # of `row_logits`
    penalties: tuple[Tensor, ...]  # of `penalised`
    noise: tuple[Tensor, ...]  # of `with_noise`
    shape: Mapping[str, int | bool]  # constexpr arguments of `row_logits`

    @staticmethod
    def of(logits_c: Tensor, logits_u: Tensor | None, params: RowParams) -> "RowArguments":
        """Logits and parameters as `sample` takes them; what is not contiguous is copied."""
        return RowArguments(
            logits=tuple(
                tensor.contiguous()
                for tensor in (
                    logits_c,
                    logits_c if logits_u is None else logits_u,
                    # Where a guided row stands in logits_u; not read without.
                    params.request if logits_u is None else torch.cumsum(params.guidance > 0, dim=0) - 1,
                    params.guidance,
                    params.temperature,
                    params.allowed,
                )
            ),
            penalties=tuple(
                tensor.contiguous()
                for tensor in (
                    params.seen.view(torch.uint8),
                    params.request,
                    params.repetition_penalty,
                    params.position_strength,
                )
            ),
            noise=tuple(tensor.contiguous() for tensor in (params.seed, params.step, params.position)),
            shape={
                "VOCAB": logits_c.shape[1],
                "NUM_RANGES": params.allowed.shape[1],
                "HAS_GUIDANCE": logits_u is not None,
            },
        )


@triton.jit
def row_logits(
    row,
    ids,
    conditional_ptr,
    unconditional_ptr,
    guided_row_ptr,
    guidance_ptr,
    temperature_ptr,
    allowed_ptr,
    VOCAB: tl.constexpr,
    NUM_RANGES: tl.constexpr,
    HAS_GUIDANCE: tl.constexpr,
):
    """Guided, tempered and allowed logits of `ids` (N,) int32 -> (N,) float32. Source: decoding.md, One step, 1 and 2.

    Nothing is read where no id of the block is allowed. The mask of the loads is no finer than that, so that they stay
    vectors.
    """
    is_allowed = allowed_ids(row, ids, allowed_ptr, VOCAB, NUM_RANGES)
    is_read = (ids < VOCAB) & (tl.max(is_allowed.to(tl.int32), axis=0) > 0)
    logits = tl.load(conditional_ptr + row * VOCAB + ids, mask=is_read, other=0.0).to(tl.float32)
    if HAS_GUIDANCE:
        cfg = tl.load(guidance_ptr + row)
        if cfg > 0:
            guided_row = tl.load(guided_row_ptr + row)
            against = tl.load(unconditional_ptr + guided_row * VOCAB + ids, mask=is_read, other=0.0).to(tl.float32)
            logits = against + (cfg + 1) * (logits - against)
    temperature = tl.load(temperature_ptr + row)
    if temperature > 0:
        logits = tl.div_rn(logits, temperature)
    return tl.where(is_allowed, logits, float("-inf"))


@triton.jit
def allowed_ids(row, ids, allowed_ptr, VOCAB: tl.constexpr, NUM_RANGES: tl.constexpr):
    """Whether ids (N,) int32 may be taken: (N,)."""
    is_allowed = ids < 0
    for i in tl.static_range(NUM_RANGES):
        start = tl.load(allowed_ptr + (row * NUM_RANGES + i) * 2).to(tl.int32)
        stop = tl.load(allowed_ptr + (row * NUM_RANGES + i) * 2 + 1).to(tl.int32)
        is_allowed |= (ids >= start) & (ids < stop)
    return is_allowed & (ids < VOCAB)


@triton.jit
def penalised(logits, ids, row, seen_ptr, request_ptr, repetition_ptr, strength_ptr, VOCAB: tl.constexpr):
    """`penalties.penalise_repetition`, then `penalties.penalise`: (N,), ids (N,) -> (N,); -inf stays."""
    request = tl.load(request_ptr + row)
    is_repeated = tl.load(seen_ptr + request * VOCAB + ids, mask=logits > float("-inf"), other=0) != 0
    logits = tl.where(is_repeated, _penalise(logits, tl.load(repetition_ptr + row)), logits)
    return _penalise(logits, tl.load(strength_ptr + row))


@triton.jit
def _penalise(logits, strength):
    return tl.where(logits < 0, logits * strength, tl.div_rn(logits, strength))


@triton.jit
def with_noise(logits, ids, row, seed_ptr, step_ptr, position_ptr):
    """Add `noise.gumbel` of `noise.uniform` of the token stream: (N,), ids (N,) -> (N,)."""
    seed = tl.load(seed_ptr + row)
    state = _mix(_mix(_STREAM ^ seed.to(tl.uint32)) ^ (seed >> 32).to(tl.uint32))
    state = _mix(state ^ tl.load(step_ptr + row).to(tl.uint32))
    state = _mix(state ^ tl.load(position_ptr + row).to(tl.uint32))
    state = _mix(state ^ ids.to(tl.uint32))
    return logits + gumbel(((state >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07)  # 2 ** -23


@triton.jit
def _mix(word):
    """`noise._mix` of uint32."""
    word = word + 0x9E3779B9
    word = (word ^ (word >> 16)) * 0x85EBCA6B
    word = (word ^ (word >> 13)) * 0xC2B2AE35
    return word ^ (word >> 16)


@triton.jit
def gumbel(uniform_draws):
    """`noise.gumbel`; a log of float32 on CUDA is too coarse for draws close to 1, those that win."""
    return -log(-log(uniform_draws))


@triton.jit
def exp(x):
    return tl.exp(x.to(tl.float64)).to(tl.float32)


@triton.jit
def log(x):
    return tl.log(x.to(tl.float64)).to(tl.float32)


@triton.jit
def row_sum(values, LOG_WIDTH: tl.constexpr):
    """`ordered.row_sum` of a block of 2 ** LOG_WIDTH: right half onto left half, down to one."""
    for i in tl.static_range(LOG_WIDTH):
        values = tl.sum(tl.reshape(values, (2, 1 << (LOG_WIDTH - 1 - i))), axis=0)
    return tl.sum(values, axis=0)


@triton.jit
def order(values):
    """int32 in the order of float32: 0 and -0 are one, and even nan has its place (an index made of it is in range)."""
    bits = (values + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def largest(keys, lowest, COUNT: tl.constexpr):
    """The COUNT largest of (N,) int32, equal ones by lowest index: whether taken (N,), their places, and the last key.

    There must be COUNT keys from `lowest` on. Halves the keys in question until one is left.
    """
    low = lowest.to(tl.int64)
    high = tl.max(keys, axis=0).to(tl.int64)
    while low < high:
        middle = (low + high + 1) >> 1
        is_enough = tl.sum((keys >= middle.to(tl.int32)).to(tl.int32), axis=0) >= COUNT
        low = tl.where(is_enough, middle, low)
        high = tl.where(is_enough, high, middle - 1)
    last = low.to(tl.int32)
    is_tie = (keys == last).to(tl.int32)
    missing = COUNT - tl.sum((keys > last).to(tl.int32), axis=0)
    is_taken = (keys > last) | ((is_tie > 0) & (tl.cumsum(is_tie, axis=0) <= missing))
    return is_taken, tl.cumsum(is_taken.to(tl.int32), axis=0) - 1, last


@triton.jit
def coarseness(row, guidance_ptr, temperature_ptr, HAS_GUIDANCE: tl.constexpr, IS_BFLOAT16: tl.constexpr):
    """The last bits of a row's float32 logits that are alike in all of them, and so do not order them."""
    is_changed = tl.load(temperature_ptr + row) > 0
    if HAS_GUIDANCE:
        is_changed |= tl.load(guidance_ptr + row) > 0
    return tl.where(is_changed, 0, 16 if IS_BFLOAT16 else 0)
