"""Rows that their candidates do not settle: a program each, which reads the vocabulary as often as it must.

Those are rows without a filter, rows with more survivors than candidates (a nucleus or a top-k wider than WIDTH, many
ties), rows with an infinite logit, and rows that took the id they may not take. The program of a settled row ends at
once: nobody else needs to know which rows are which, so the host does not wait for the device.

Survivors are found by thresholds instead of sorting. Logits are compared as integers of the same order (`order`), and
a threshold is searched bit by bit: a sum over the row tells whether it lies higher or lower. Sums are in float64.
"""

import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels.confidence import ALGORITHMS
from unmask_kernels.filters import NO_TOP_K, NO_TOP_P
from unmask_kernels.rows import RowParams
from unmask_kernels.triton_support import (
    LAUNCH,
    LOWEST,
    ONE_BINARY,
    RowArguments,
    exp,
    log,
    order,
    penalised,
    row_logits,
    with_noise,
)

_BLOCK = 2048
_PROGRAMS = 528  # at most; each takes every so many rows

_NO_TOP_K = tl.constexpr(NO_TOP_K)
_NO_TOP_P = tl.constexpr(NO_TOP_P)
_TOP_PROBABILITY = tl.constexpr(ALGORITHMS.index("maskgit_plus"))
_MARGIN = tl.constexpr(ALGORITHMS.index("topk_margin"))
_ORIGIN = tl.constexpr(ALGORITHMS.index("origin"))
_LOWEST_KEY = tl.constexpr(-0x80000000)
_HIGHEST_KEY = tl.constexpr(0x7FFFFFFF)
_NO_ID = tl.constexpr(-2)


def sample_whole(
    arguments: RowArguments, params: RowParams, is_settled: Tensor, tokens: Tensor, confidence: Tensor
) -> None:
    """Overwrite tokens (R,) and confidence (R,) of the rows for which `is_settled` (R,) int8 is 0."""
    num_rows = len(params)
    _sample_kernel[(min(num_rows, _PROGRAMS),)](
        *arguments.logits,
        *arguments.penalties,
        *arguments.noise,
        params.algorithm.contiguous(),
        params.top_p.contiguous(),
        params.top_k.contiguous(),
        params.never.contiguous(),
        is_settled,
        tokens,
        confidence,
        num_rows,
        **arguments.shape,
        BLOCK=_BLOCK,
        num_warps=8,
        **LAUNCH,
    )


@triton.jit(**ONE_BINARY)
def _sample_kernel(
    conditional_ptr,
    unconditional_ptr,
    guided_row_ptr,
    guidance_ptr,
    temperature_ptr,
    allowed_ptr,
    seen_ptr,
    request_ptr,
    repetition_ptr,
    strength_ptr,
    seed_ptr,
    step_ptr,
    position_ptr,
    algorithm_ptr,
    top_p_ptr,
    top_k_ptr,
    never_ptr,
    is_settled_ptr,
    tokens_ptr,
    confidence_ptr,
    num_rows,
    VOCAB: tl.constexpr,
    NUM_RANGES: tl.constexpr,
    HAS_GUIDANCE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A row that takes its forbidden id is sampled again as if that id were not there."""
    for number in range(tl.program_id(0), num_rows, tl.num_programs(0)):
        row = tl.cast(number, tl.int64)
        penalties = (seen_ptr, request_ptr, repetition_ptr, strength_ptr)
        noise = (seed_ptr, step_ptr, position_ptr)
        is_sampled = tl.load(temperature_ptr + row) > 0
        algorithm = tl.load(algorithm_ptr + row)
        top_p = tl.load(top_p_ptr + row)
        top_k = tl.load(top_k_ptr + row)
        never = tl.load(never_ptr + row)
        excluded = tl.full([], _NO_ID, tl.int64)
        is_open = tl.load(is_settled_ptr + row) == 0
        for _ in range(2):
            if is_open:
                # fmt: off
                read = (
                    row, excluded, conditional_ptr, unconditional_ptr, guided_row_ptr, guidance_ptr, temperature_ptr,
                    allowed_ptr,
                )
                # fmt: on
                best, best_id = _best(read, VOCAB, NUM_RANGES, HAS_GUIDANCE, BLOCK)
                cut, last_id, kth = _filter(read, best, top_p, top_k, VOCAB, NUM_RANGES, HAS_GUIDANCE, BLOCK)
                kept = (best_id, cut, last_id, kth)
                token, confidence = _choose(
                    read, kept, penalties, noise, is_sampled, algorithm, VOCAB, NUM_RANGES, HAS_GUIDANCE, BLOCK
                )
                tl.store(tokens_ptr + row, token.to(tl.int64))
                tl.store(confidence_ptr + row, confidence)
                is_open = token.to(tl.int64) == never
                excluded = never


@triton.jit
def _logits(ids, read, VOCAB: tl.constexpr, NUM_RANGES: tl.constexpr, HAS_GUIDANCE: tl.constexpr):
    """`row_logits` with one id left out."""
    row, excluded, conditional_ptr, unconditional_ptr, guided_row_ptr, guidance_ptr, temperature_ptr, allowed_ptr = read
    # fmt: off
    logits = row_logits(
        row, ids, conditional_ptr, unconditional_ptr, guided_row_ptr, guidance_ptr, temperature_ptr, allowed_ptr,
        VOCAB, NUM_RANGES, HAS_GUIDANCE,
    )
    # fmt: on
    return tl.where(ids == excluded, float("-inf"), logits)


@triton.jit
def _best(read, VOCAB: tl.constexpr, NUM_RANGES: tl.constexpr, HAS_GUIDANCE: tl.constexpr, BLOCK: tl.constexpr):
    """The largest logit, at least LOWEST, and the lowest id that has it."""
    lane = tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    best_ids = tl.full((BLOCK,), VOCAB - 1, tl.int32)
    for start in range(0, VOCAB, BLOCK):
        logits = _logits(start + lane, read, VOCAB, NUM_RANGES, HAS_GUIDANCE)
        best_ids = tl.where(logits > best, start + lane, best_ids)
        best = tl.maximum(best, logits)
    top = tl.maximum(tl.max(best, axis=0), LOWEST)
    return top, tl.min(tl.where(best == top, best_ids, VOCAB - 1), axis=0)


@triton.jit
def _above(
    threshold,
    best,
    mass,
    read,
    VOCAB: tl.constexpr,
    NUM_RANGES: tl.constexpr,
    HAS_GUIDANCE: tl.constexpr,
    BLOCK: tl.constexpr,
    BY_MASS: tl.constexpr,
):
    """What the logits above a threshold weigh, float64: by mass exp(logit - best) / mass each, else 1 each."""
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, VOCAB, BLOCK):
        logits = _logits(start + tl.arange(0, BLOCK), read, VOCAB, NUM_RANGES, HAS_GUIDANCE)
        is_above = order(logits).to(tl.int64) > threshold
        if BY_MASS:
            total += tl.where(is_above, tl.div_rn(exp(logits - best), mass), 0.0).to(tl.float64)
        else:
            total += is_above.to(tl.float64)
    return tl.sum(total, axis=0)


@triton.jit
def _threshold(
    limit,
    best,
    mass,
    read,
    VOCAB: tl.constexpr,
    NUM_RANGES: tl.constexpr,
    HAS_GUIDANCE: tl.constexpr,
    BLOCK: tl.constexpr,
    BY_MASS: tl.constexpr,
):
    """The lowest threshold above which there is at most `limit`. It is some logit's, or _LOWEST_KEY."""
    low = tl.full([], _LOWEST_KEY, tl.int64)
    high = tl.full([], _HIGHEST_KEY, tl.int64)
    for _ in range(32):
        middle = (low + high) >> 1
        weight = _above(middle, best, mass, read, VOCAB, NUM_RANGES, HAS_GUIDANCE, BLOCK, BY_MASS)
        is_enough = weight.to(tl.float32) <= limit
        high = tl.where(is_enough, middle, high)
        low = tl.where(is_enough, low, middle + 1)
    return high


@triton.jit
def _filter(
    read,
    best,
    top_p,
    top_k,
    VOCAB: tl.constexpr,
    NUM_RANGES: tl.constexpr,
    HAS_GUIDANCE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`filters.drop`: logits above `cut` are in the nucleus, of those at it the ids up to `last_id`; of these stay all
    that are at least `kth`.
    """
    cut = tl.full([], _LOWEST_KEY, tl.int64)
    last_id = tl.full([], VOCAB, tl.int32)
    kth = tl.full([], _LOWEST_KEY, tl.int64)
    if top_p < _NO_TOP_P:
        mass = _above(cut, best, 1.0, read, VOCAB, NUM_RANGES, HAS_GUIDANCE, BLOCK, True).to(tl.float32)
        mass = tl.maximum(mass, 1.0)  # that of the best one alone; less only in a row of nan
        cut = _threshold(top_p, best, mass, read, VOCAB, NUM_RANGES, HAS_GUIDANCE, BLOCK, True)
        before = _above(cut, best, mass, read, VOCAB, NUM_RANGES, HAS_GUIDANCE, BLOCK, True)
        last_id = tl.full([], -1, tl.int32)
        num_ties = tl.full([], 0, tl.int32)
        for start in range(0, VOCAB, BLOCK):
            ids = start + tl.arange(0, BLOCK)
            logits = _logits(ids, read, VOCAB, NUM_RANGES, HAS_GUIDANCE)
            is_tie = (order(logits).to(tl.int64) == cut).to(tl.int32)
            rank = num_ties + tl.cumsum(is_tie, axis=0) - is_tie
            share = tl.div_rn(exp(logits - best), mass).to(tl.float64)
            is_in = (is_tie > 0) & ((before + rank.to(tl.float64) * share).to(tl.float32) <= top_p)
            last_id = tl.maximum(last_id, tl.max(tl.where(is_in, ids, -1), axis=0))
            num_ties += tl.sum(is_tie, axis=0)
    if (top_k > _NO_TOP_K) & (top_k < VOCAB):
        kth = _threshold((top_k - 1).to(tl.float32), best, 1.0, read, VOCAB, NUM_RANGES, HAS_GUIDANCE, BLOCK, False)
    return cut, last_id, kth


@triton.jit
def _survivors(ids, read, kept, penalties, VOCAB: tl.constexpr, NUM_RANGES: tl.constexpr, HAS_GUIDANCE: tl.constexpr):
    """Penalised logits, -inf where an id is dropped. The best one stays, though its row's mass be infinite."""
    logits = _logits(ids, read, VOCAB, NUM_RANGES, HAS_GUIDANCE)
    best_id, cut, last_id, kth = kept
    keys = order(logits).to(tl.int64)
    in_nucleus = (keys > cut) | ((keys == cut) & (ids <= last_id)) | (ids == best_id)
    logits = tl.where(in_nucleus & (keys >= kth), logits, float("-inf"))
    return penalised(logits, ids, read[0], *penalties, VOCAB)


@triton.jit
def _choose(
    read,
    kept,
    penalties,
    noise,
    is_sampled,
    algorithm,
    VOCAB: tl.constexpr,
    NUM_RANGES: tl.constexpr,
    HAS_GUIDANCE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Token int32 and confidence of the survivors. Source: decoding.md, One step, 5 to 7; `choice` says it in torch."""
    lane = tl.arange(0, BLOCK)
    first = tl.full((BLOCK,), LOWEST, tl.float32)  # of each lane, like all below
    second = tl.full((BLOCK,), LOWEST, tl.float32)
    best_score = tl.full((BLOCK,), float("-inf"), tl.float32)
    tokens = tl.full((BLOCK,), VOCAB - 1, tl.int32)
    chosen = tl.full((BLOCK,), LOWEST, tl.float32)
    for start in range(0, VOCAB, BLOCK):
        logits = _survivors(start + lane, read, kept, penalties, VOCAB, NUM_RANGES, HAS_GUIDANCE)
        second = tl.maximum(second, tl.minimum(first, logits))
        first = tl.maximum(first, logits)
        scores = logits
        if is_sampled:
            scores = with_noise(logits, start + lane, read[0], *noise)
        is_better = scores > best_score
        tokens = tl.where(is_better, start + lane, tokens)
        chosen = tl.where(is_better, logits, chosen)
        best_score = tl.maximum(best_score, scores)
    top = tl.max(first, axis=0)
    top_lane = tl.min(tl.where(first == top, lane, BLOCK), axis=0)
    runner_up = tl.maximum(tl.max(tl.where(lane == top_lane, LOWEST, first), axis=0), tl.max(second, axis=0))
    is_best = best_score == tl.max(best_score, axis=0)
    token = tl.min(tl.where(is_best, tokens, VOCAB - 1), axis=0)
    taken = tl.max(tl.where(is_best & (tokens == token), chosen, LOWEST), axis=0)

    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, VOCAB, BLOCK):
        logits = _survivors(start + lane, read, kept, penalties, VOCAB, NUM_RANGES, HAS_GUIDANCE)
        total += exp(logits - top).to(tl.float64)
    mass = tl.maximum(tl.sum(total, axis=0).to(tl.float32), 1.0)
    entropy = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, VOCAB, BLOCK):
        logits = _survivors(start + lane, read, kept, penalties, VOCAB, NUM_RANGES, HAS_GUIDANCE)
        probs = tl.div_rn(exp(logits - top), mass)
        entropy += (probs * log(probs + 1e-10)).to(tl.float64)
    margin = tl.div_rn(exp(top - top), mass) - tl.div_rn(exp(runner_up - top), mass)
    confidence = tl.sum(entropy, axis=0).to(tl.float32)
    confidence = tl.where(algorithm == _TOP_PROBABILITY, tl.div_rn(exp(taken - top), mass), confidence)
    confidence = tl.where(algorithm == _MARGIN, margin, confidence)
    return token, tl.where(algorithm == _ORIGIN, 0.0, confidence)
