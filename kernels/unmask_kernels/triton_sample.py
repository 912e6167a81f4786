"""The sampler in Triton: one read of the logits for every row whose survivors are among its WIDTH best tokens.

`triton_candidates` finds those; `_finish_kernel` applies nucleus, top-k and penalties to them, and chooses. A row is
settled when its worst survivor is better than its worst candidate, so that no other token can survive, and when it took
an id that it may take. The rest goes to `triton_whole`. Which way a row goes depends on that row alone.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels.confidence import ALGORITHMS
from unmask_kernels.filters import NO_TOP_K, NO_TOP_P
from unmask_kernels.rows import RowParams
from unmask_kernels.triton_candidates import LOG_WIDTH, best_candidates
from unmask_kernels.triton_support import (
    LAUNCH,
    LOWEST,
    ONE_BINARY,
    RowArguments,
    exp,
    log,
    penalised,
    require_device,
    row_sum,
    with_noise,
)
from unmask_kernels.triton_whole import sample_whole

_NO_TOP_K = tl.constexpr(NO_TOP_K)
_NO_TOP_P = tl.constexpr(NO_TOP_P)
_TOP_PROBABILITY = tl.constexpr(ALGORITHMS.index("maskgit_plus"))
_MARGIN = tl.constexpr(ALGORITHMS.index("topk_margin"))
_ORIGIN = tl.constexpr(ALGORITHMS.index("origin"))


def sample_triton(logits_c: Tensor, logits_u: Tensor | None, params: RowParams) -> tuple[Tensor, Tensor]:
    """See `sample`. The host does not wait for the device."""
    require_device(logits_c)
    if len(params) == 0:
        return params.seed.new_zeros(0), params.temperature.new_zeros(0)
    arguments = RowArguments.of(logits_c, logits_u, params)
    tokens, confidence, is_settled = _sample_settled(arguments, params)
    sample_whole(arguments, params, is_settled, tokens, confidence)
    return tokens, confidence


def _sample_settled(arguments: RowArguments, params: RowParams) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and confidence of all rows, and which of them hold, int8: three of (R,)."""
    candidates = best_candidates(arguments, len(params))
    num_splits = candidates.split_best.shape[1]
    tokens, confidence = torch.empty_like(params.seed), torch.empty_like(params.temperature)
    is_settled = torch.empty_like(params.seed, dtype=torch.int8)
    _finish_kernel[(len(params),)](
        candidates.values,
        candidates.ids,
        candidates.split_best,
        candidates.split_mass,
        params.algorithm.contiguous(),
        params.temperature.contiguous(),
        params.top_p.contiguous(),
        params.top_k.contiguous(),
        params.never.contiguous(),
        *arguments.penalties,
        *arguments.noise,
        tokens,
        confidence,
        is_settled,
        VOCAB=arguments.shape["VOCAB"],
        NUM_SPLITS=num_splits,
        SPLITS_BLOCK=triton.next_power_of_2(num_splits),
        LOG_WIDTH=LOG_WIDTH,
        num_warps=4,
        **LAUNCH,
    )
    return tokens, confidence, is_settled


@triton.jit(**ONE_BINARY)
def _finish_kernel(
    values_ptr,  # (R, WIDTH), falling
    ids_ptr,  # (R, WIDTH) int32
    split_best_ptr,  # (R, NUM_SPLITS)
    split_mass_ptr,  # (R, NUM_SPLITS)
    algorithm_ptr,
    temperature_ptr,
    top_p_ptr,
    top_k_ptr,
    never_ptr,
    seen_ptr,
    request_ptr,
    repetition_ptr,
    strength_ptr,
    seed_ptr,
    step_ptr,
    position_ptr,
    tokens_ptr,
    confidence_ptr,
    is_settled_ptr,
    VOCAB: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    SPLITS_BLOCK: tl.constexpr,
    LOG_WIDTH: tl.constexpr,
):
    """Source: decoding.md, One step, 3 to 7; `filters.keep` and `confidence` say it in torch."""
    row = tl.program_id(0).to(tl.int64)
    width: tl.constexpr = 1 << LOG_WIDTH
    slot = tl.arange(0, width)
    values = tl.load(values_ptr + row * width + slot)
    ids = tl.load(ids_ptr + row * width + slot)

    split = tl.arange(0, SPLITS_BLOCK)
    is_split = split < NUM_SPLITS
    split_best = tl.load(split_best_ptr + row * NUM_SPLITS + split, mask=is_split, other=LOWEST)
    split_mass = tl.load(split_mass_ptr + row * NUM_SPLITS + split, mask=is_split, other=0.0)
    best = tl.max(split_best, axis=0)
    mass = tl.sum(split_mass * exp(split_best - best), axis=0)

    top_p = tl.load(top_p_ptr + row)
    top_p = tl.where(top_p < _NO_TOP_P, top_p, float("inf"))
    top_k = tl.load(top_k_ptr + row)
    share = tl.div_rn(exp(values - best), tl.maximum(mass, 1.0)).to(tl.float64)
    before = (tl.cumsum(share, axis=0) - share).to(tl.float32)
    limit = tl.where(top_k > _NO_TOP_K, tl.minimum(top_k, width), width)
    kth = tl.sum(tl.where(slot == limit - 1, values, 0.0), axis=0)
    is_kept = (before <= top_p) & (values >= kth) & (values > float("-inf"))
    worst_kept = tl.min(tl.where(is_kept, values, float("inf")), axis=0)
    is_exact = (worst_kept > tl.min(values, axis=0)) & (mass >= 1) & (mass < float("inf"))

    logits = penalised(
        tl.where(is_kept, values, float("-inf")), ids, row, seen_ptr, request_ptr, repetition_ptr, strength_ptr, VOCAB
    )
    weights = exp(logits - tl.maximum(tl.max(logits, axis=0), LOWEST))
    probs = tl.div_rn(weights, tl.maximum(row_sum(weights, LOG_WIDTH), 1.0))
    scores = logits
    if tl.load(temperature_ptr + row) > 0:
        scores = with_noise(logits, ids, row, seed_ptr, step_ptr, position_ptr)
    token = tl.min(tl.where(is_kept & (scores == tl.max(scores, axis=0)), ids, VOCAB - 1), axis=0)

    algorithm = tl.load(algorithm_ptr + row)
    top = tl.max(probs, axis=0)
    runner_up = tl.max(tl.where(slot == tl.argmax(probs, axis=0), 0.0, probs), axis=0)
    confidence = row_sum(probs * log(probs + 1e-10), LOG_WIDTH)
    confidence = tl.where(algorithm == _TOP_PROBABILITY, tl.sum(tl.where(ids == token, probs, 0.0)), confidence)
    confidence = tl.where(algorithm == _MARGIN, top - runner_up, confidence)
    confidence = tl.where(algorithm == _ORIGIN, 0.0, confidence)
    tl.store(tokens_ptr + row, token.to(tl.int64))
    tl.store(confidence_ptr + row, confidence)
    tl.store(is_settled_ptr + row, (is_exact & (token != tl.load(never_ptr + row))).to(tl.int8))
