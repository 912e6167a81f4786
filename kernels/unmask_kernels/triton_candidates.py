"""The WIDTH best tokens of every row, and the row's softmax mass, in one read of the logits.

The vocabulary of a row is cut into splits of SPLIT ids, a program each, and these into groups of GROUP neighbours:

1. scan: the maximum of each group, and each split's share of the mass;
2. groups: the WIDTH best groups. They hold the WIDTH best tokens, since a token outside of them is preceded by the
   best token of each of them;
3. candidates: those groups are read again (WIDTH * GROUP ids, a twentieth of the large vocabulary): the WIDTH best;
4. sort: by falling logit, then by rising id.

How a row is cut does not depend on how many there are, so neither do its sums.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels.triton_support import (
    LAUNCH,
    LOWEST,
    ONE_BINARY,
    RowArguments,
    allowed_ids,
    coarseness,
    largest,
    order,
    row_logits,
)

LOG_WIDTH = 7
WIDTH = 1 << LOG_WIDTH  # candidates of a row
GROUP = 64
SPLIT = 4096
SPLITS = 4  # of a program, which reads the next one while it works on one
SCAN_WARPS = 4
GROUPS_WARPS = 4
CANDIDATES_WARPS = 16


@dataclass(frozen=True)
class SortedCandidates:
    values: Tensor  # (R, WIDTH) float32, falling; -inf where a row is allowed fewer ids
    ids: Tensor  # (R, WIDTH) int32, equal values in their order; out of the vocabulary where there are fewer
    split_best: Tensor  # (R, splits) float32, the best logit of a split, at least LOWEST
    split_mass: Tensor  # (R, splits) float32, sum of exp(logit - split_best)


def best_candidates(arguments: RowArguments, num_rows: int) -> SortedCandidates:
    """At least one row."""
    device = arguments.logits[0].device
    num_splits = triton.cdiv(int(arguments.shape["VOCAB"]), SPLIT)
    num_groups = num_splits * (SPLIT // GROUP)

    def scratch(width: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(num_rows, width, dtype=dtype, device=device)

    group_best, split_best, split_mass = scratch(num_groups), scratch(num_splits), scratch(num_splits)
    lowest = torch.empty(num_rows, dtype=torch.int32, device=device)
    *_, guidance, temperature, _ = arguments.logits
    shape = {**arguments.shape, "IS_BFLOAT16": arguments.logits[0].dtype == torch.bfloat16}
    groups, ids, values = scratch(WIDTH, torch.int32), scratch(WIDTH, torch.int32), scratch(WIDTH)
    found = SortedCandidates(torch.empty_like(values), torch.empty_like(ids), split_best, split_mass)
    _scan_kernel[(num_rows, triton.cdiv(num_splits, SPLITS))](
        *arguments.logits,
        group_best,
        split_best,
        split_mass,
        **arguments.shape,
        SPLIT=SPLIT,
        SPLITS=SPLITS,
        GROUP=GROUP,
        num_warps=SCAN_WARPS,
        **LAUNCH,
    )
    _groups_kernel[(num_rows,)](
        group_best,
        guidance,
        temperature,
        groups,
        lowest,
        NUM_GROUPS=num_groups,
        BLOCK=max(WIDTH, triton.next_power_of_2(num_groups)),
        WIDTH=WIDTH,
        HAS_GUIDANCE=shape["HAS_GUIDANCE"],
        IS_BFLOAT16=shape["IS_BFLOAT16"],
        num_warps=GROUPS_WARPS,
        **LAUNCH,
    )
    _candidates_kernel[(num_rows,)](
        *arguments.logits,
        groups,
        lowest,
        values,
        ids,
        **shape,
        GROUP=GROUP,
        WIDTH=WIDTH,
        num_warps=CANDIDATES_WARPS,
        **LAUNCH,
    )
    _sort_kernel[(num_rows,)](values, ids, found.values, found.ids, WIDTH=WIDTH, num_warps=4, **LAUNCH)
    return found


@triton.jit(**ONE_BINARY)
def _scan_kernel(
    conditional_ptr,
    unconditional_ptr,
    guided_row_ptr,
    guidance_ptr,
    temperature_ptr,
    allowed_ptr,
    group_best_ptr,  # (R, num_splits * SPLIT // GROUP)
    split_best_ptr,  # (R, num_splits), at least LOWEST
    split_mass_ptr,  # (R, num_splits), sum of exp(logit - split_best)
    VOCAB: tl.constexpr,
    NUM_RANGES: tl.constexpr,
    HAS_GUIDANCE: tl.constexpr,
    SPLIT: tl.constexpr,
    SPLITS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """A program SPLITS splits of a row. This exp may be coarse: the mass only bounds the nucleus."""
    row = tl.program_id(0).to(tl.int64)
    cfg = 0.0
    guided_row = row
    if HAS_GUIDANCE:
        cfg = tl.load(guidance_ptr + row)
        guided_row = tl.load(guided_row_ptr + row)
    temperature = tl.load(temperature_ptr + row)
    num_groups: tl.constexpr = SPLIT // GROUP
    num_splits: tl.constexpr = (VOCAB + SPLIT - 1) // SPLIT
    lane = tl.arange(0, SPLIT)
    first_split = tl.program_id(1) * SPLITS
    read = (row, conditional_ptr, unconditional_ptr, guided_row, cfg, allowed_ptr)
    end = tl.minimum((first_split + SPLITS) * SPLIT, VOCAB)
    ahead, against_ahead = _read(first_split * SPLIT, end, read, VOCAB, NUM_RANGES, HAS_GUIDANCE, SPLIT)
    for split in range(first_split, tl.minimum(first_split + SPLITS, num_splits)):
        logits = ahead.to(tl.float32)
        against = against_ahead.to(tl.float32)
        first = split * SPLIT
        ahead, against_ahead = _read(first + SPLIT, end, read, VOCAB, NUM_RANGES, HAS_GUIDANCE, SPLIT)
        if cfg > 0:
            logits = against + (cfg + 1) * (logits - against)
        if temperature > 0:
            logits = tl.div_rn(logits, temperature)
        is_whole = first < 0
        for i in tl.static_range(NUM_RANGES):
            start = tl.load(allowed_ptr + (row * NUM_RANGES + i) * 2)
            stop = tl.load(allowed_ptr + (row * NUM_RANGES + i) * 2 + 1)
            is_whole |= (start <= first) & (stop >= first + SPLIT)
        if (is_whole & (first + SPLIT <= VOCAB)) == 0:
            is_allowed = allowed_ids(row, first + lane, allowed_ptr, VOCAB, NUM_RANGES)
            logits = tl.where(is_allowed, logits, float("-inf"))
        group_best = tl.max(tl.reshape(logits, (num_groups, GROUP)), axis=1)
        split_best = tl.maximum(tl.max(group_best, axis=0), LOWEST)
        place = row * num_splits + split
        tl.store(group_best_ptr + place * num_groups + tl.arange(0, num_groups), group_best)
        tl.store(split_best_ptr + place, split_best)
        tl.store(split_mass_ptr + place, tl.sum(tl.exp(logits - split_best), axis=0))


@triton.jit
def _read(
    first, end, read, VOCAB: tl.constexpr, NUM_RANGES: tl.constexpr, HAS_GUIDANCE: tl.constexpr, SPLIT: tl.constexpr
):
    """Conditional and unconditional logits of SPLIT ids from `first` to before `end`; nothing is read where none of
    them is allowed.
    """
    row, conditional_ptr, unconditional_ptr, guided_row, cfg, allowed_ptr = read
    is_any = first < 0
    for i in tl.static_range(NUM_RANGES):
        start = tl.load(allowed_ptr + (row * NUM_RANGES + i) * 2)
        stop = tl.load(allowed_ptr + (row * NUM_RANGES + i) * 2 + 1)
        is_any |= (start < stop) & (start < first + SPLIT) & (stop > first)
    is_any &= first < end
    ids = first + tl.arange(0, SPLIT)
    is_read = (ids < VOCAB) & is_any
    logits = tl.load(conditional_ptr + row * VOCAB + ids, mask=is_read, other=0.0)
    against = logits
    if HAS_GUIDANCE:
        against = tl.load(
            unconditional_ptr + guided_row * VOCAB + ids, mask=is_read & (tl.where(cfg > 0, 1, 0) == 1), other=0.0
        )
    return logits, against


@triton.jit(**ONE_BINARY)
def _groups_kernel(
    group_best_ptr,  # (R, NUM_GROUPS)
    guidance_ptr,
    temperature_ptr,
    groups_ptr,  # (R, WIDTH) int32, rising; beyond NUM_GROUPS where there are fewer
    lowest_ptr,  # (R,) int32, the key of the worst maximum among them
    NUM_GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    HAS_GUIDANCE: tl.constexpr,
    IS_BFLOAT16: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    groups = tl.arange(0, BLOCK)
    best = tl.load(group_best_ptr + row * NUM_GROUPS + groups, mask=groups < NUM_GROUPS, other=float("-inf"))
    keys = order(best) >> coarseness(row, guidance_ptr, temperature_ptr, HAS_GUIDANCE, IS_BFLOAT16)
    is_taken, place, last = largest(keys, tl.min(keys, axis=0), WIDTH)
    tl.store(groups_ptr + row * WIDTH + place, groups, mask=is_taken)
    tl.store(lowest_ptr + row, last)


@triton.jit(**ONE_BINARY)
def _candidates_kernel(
    conditional_ptr,
    unconditional_ptr,
    guided_row_ptr,
    guidance_ptr,
    temperature_ptr,
    allowed_ptr,
    groups_ptr,  # (R, WIDTH) int32
    lowest_ptr,  # (R,) int32, a key that WIDTH ids of these groups reach
    values_ptr,  # (R, WIDTH) float32
    ids_ptr,  # (R, WIDTH) int32, rising
    VOCAB: tl.constexpr,
    NUM_RANGES: tl.constexpr,
    HAS_GUIDANCE: tl.constexpr,
    IS_BFLOAT16: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, WIDTH * GROUP)
    ids = tl.load(groups_ptr + row * WIDTH + lane // GROUP) * GROUP + lane % GROUP
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
    keys = order(logits) >> coarseness(row, guidance_ptr, temperature_ptr, HAS_GUIDANCE, IS_BFLOAT16)
    is_taken, place, _ = largest(keys, tl.load(lowest_ptr + row), WIDTH)
    tl.store(values_ptr + row * WIDTH + place, logits, mask=is_taken)
    tl.store(ids_ptr + row * WIDTH + place, ids, mask=is_taken)


@triton.jit
def _sort_kernel(
    values_ptr,  # (R, WIDTH)
    ids_ptr,  # (R, WIDTH) int32, rising
    sorted_values_ptr,  # (R, WIDTH), falling, equal ones in the order of their ids
    sorted_ids_ptr,  # (R, WIDTH) int32
    WIDTH: tl.constexpr,
):
    """Where a candidate goes is how many precede it."""
    first = tl.program_id(0).to(tl.int64) * WIDTH
    slot = tl.arange(0, WIDTH)
    values = tl.load(values_ptr + first + slot)
    keys = order(values)
    is_ahead = (keys[None, :] > keys[:, None]) | ((keys[None, :] == keys[:, None]) & (slot[None, :] < slot[:, None]))
    rank = tl.sum(is_ahead.to(tl.int32), axis=1)
    tl.store(sorted_values_ptr + first + rank, values)
    tl.store(sorted_ids_ptr + first + rank, tl.load(ids_ptr + first + slot))
