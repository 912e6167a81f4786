"""Rows without a filter: every allowed token survives, so mass, choice and entropy run over the whole vocabulary.

Two reads at most: the second is for entropy, whose sum of p log(p + 1e-10) needs the mass first (decoding.md, One
step, 7). The splits of a row are merged by torch operations whose rounding depends on the row alone.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels.confidence import ALGORITHMS, CONFIDENCE, negative_entropy
from unmask_kernels.ordered import row_sum
from unmask_kernels.rows import RowParams
from unmask_kernels.triton_support import LAUNCH, LOWEST, RowArguments, exp, log, penalised, row_logits, with_noise

_SPLIT = 2048


def sample_whole(arguments: RowArguments, params: RowParams, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and confidence of the given rows (R',), as if nothing were forbidden: (R',), (R',)."""
    vocabulary = int(arguments.shape["VOCAB"])
    grid = (len(rows), triton.cdiv(vocabulary, _SPLIT))
    best, runner_up, mass, score, chosen = torch.empty(5, *grid, dtype=torch.float32, device=rows.device)
    ids = torch.empty(grid, dtype=torch.int64, device=rows.device)
    read = (rows, *arguments.logits, *arguments.penalties)
    meta = {**arguments.shape, "SPLIT": _SPLIT, "num_warps": 8, **LAUNCH}
    _scan_kernel[grid](*read, *arguments.noise, best, runner_up, mass, score, chosen, ids, **meta)

    is_taken = score == score.amax(dim=1, keepdim=True)
    tokens = ids.masked_fill(~is_taken, vocabulary - 1).amin(dim=1)
    taken_logit = chosen.masked_fill(~is_taken | (ids != tokens.unsqueeze(1)), -torch.inf).amax(dim=1)
    top = best.amax(dim=1)
    total = row_sum(mass * torch.exp(best - top.unsqueeze(1)))
    best_two = torch.cat([best, runner_up], dim=1).topk(2, dim=1).values
    by_algorithm = {
        "maskgit_plus": torch.exp(taken_logit - top) / total,
        "topk_margin": (torch.exp(best_two - top.unsqueeze(1)) / total.unsqueeze(1)).diff(dim=1).squeeze(1).neg(),
    }
    algorithm = params.algorithm[rows]
    confidence = torch.zeros_like(total)
    for name, values in by_algorithm.items():
        confidence = torch.where(algorithm == ALGORITHMS.index(name), values, confidence)
    wants_entropy = torch.zeros_like(algorithm, dtype=torch.bool)
    for index, name in enumerate(ALGORITHMS):
        wants_entropy |= (algorithm == index) & (CONFIDENCE[name] is negative_entropy)
    uncertain = wants_entropy.nonzero().flatten()
    if len(uncertain):
        parts = torch.empty(len(uncertain), grid[1], dtype=torch.float32, device=rows.device)
        read = (rows[uncertain], *read[1:])
        _entropy_kernel[parts.shape](*read, top[uncertain], total[uncertain], parts, **meta)
        confidence[uncertain] = row_sum(parts)
    return tokens, confidence


@triton.jit
def _scan_kernel(
    rows_ptr,
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
    best_ptr,  # (R', num_splits), as are all below: largest penalised logit, at least LOWEST
    runner_up_ptr,  # the second largest, at least LOWEST
    mass_ptr,  # sum of exp(logit - best)
    score_ptr,  # largest logit plus noise, at least LOWEST
    chosen_ptr,  # the logit that scored so
    ids_ptr,  # int64, its id, the lowest of equals
    VOCAB: tl.constexpr,
    NUM_RANGES: tl.constexpr,
    HAS_GUIDANCE: tl.constexpr,
    SPLIT: tl.constexpr,
):
    row = tl.load(rows_ptr + tl.program_id(0))
    ids = tl.program_id(1) * SPLIT + tl.arange(0, SPLIT)
    logits = row_logits(
        row,
        ids,
        conditional_ptr,
        unconditional_ptr,
        guided_row_ptr,
        guidance_ptr,
        temperature_ptr,
        allowed_ptr,
        VOCAB,
        NUM_RANGES,
        HAS_GUIDANCE,
    )
    logits = penalised(logits, ids, row, seen_ptr, request_ptr, repetition_ptr, strength_ptr, VOCAB)
    logits = tl.maximum(logits, LOWEST)
    best = tl.max(logits, axis=0)
    best_id = tl.min(tl.where(logits == best, ids, VOCAB - 1), axis=0)
    runner_up = tl.max(tl.where(ids == best_id, LOWEST, logits), axis=0)
    scores = logits
    if tl.load(temperature_ptr + row) > 0:
        scores = with_noise(logits, ids, row, seed_ptr, step_ptr, position_ptr)
    score = tl.max(scores, axis=0)
    chosen_id = tl.min(tl.where(scores == score, ids, VOCAB - 1), axis=0)
    chosen = tl.max(tl.where(ids == chosen_id, logits, LOWEST), axis=0)
    is_possible = logits > LOWEST
    place = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    tl.store(best_ptr + place, best)
    tl.store(runner_up_ptr + place, runner_up)
    tl.store(mass_ptr + place, tl.sum(tl.where(is_possible, exp(logits - best), 0.0), axis=0))
    tl.store(score_ptr + place, score)
    tl.store(chosen_ptr + place, chosen)
    tl.store(ids_ptr + place, chosen_id.to(tl.int64))


@triton.jit
def _entropy_kernel(
    rows_ptr,
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
    best_ptr,  # (R',), largest penalised logit of the row
    mass_ptr,  # (R',), sum of exp(logit - best) over the row
    entropy_ptr,  # (R', num_splits), each split's part of sum of p log(p + 1e-10)
    VOCAB: tl.constexpr,
    NUM_RANGES: tl.constexpr,
    HAS_GUIDANCE: tl.constexpr,
    SPLIT: tl.constexpr,
):
    row = tl.load(rows_ptr + tl.program_id(0))
    ids = tl.program_id(1) * SPLIT + tl.arange(0, SPLIT)
    logits = row_logits(
        row,
        ids,
        conditional_ptr,
        unconditional_ptr,
        guided_row_ptr,
        guidance_ptr,
        temperature_ptr,
        allowed_ptr,
        VOCAB,
        NUM_RANGES,
        HAS_GUIDANCE,
    )
    logits = penalised(logits, ids, row, seen_ptr, request_ptr, repetition_ptr, strength_ptr, VOCAB)
    best = tl.load(best_ptr + tl.program_id(0))
    mass = tl.load(mass_ptr + tl.program_id(0))
    probs = tl.div_rn(exp(logits - best), mass)
    place = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    tl.store(entropy_ptr + place, tl.sum(probs * log(probs + 1e-10), axis=0))
