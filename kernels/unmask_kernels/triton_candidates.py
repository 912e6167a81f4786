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

from unmask_kernels.triton_support import LAUNCH, LOWEST, RowArguments, largest, order, row_logits

LOG_WIDTH = 7
WIDTH = 1 << LOG_WIDTH  # candidates of a row
GROUP = 64
SPLIT = 4096


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
    groups, ids, values = scratch(WIDTH, torch.int32), scratch(WIDTH, torch.int32), scratch(WIDTH)
    found = SortedCandidates(torch.empty_like(values), torch.empty_like(ids), split_best, split_mass)
    _scan_kernel[(num_rows, num_splits)](
        *arguments.logits,
        group_best,
        split_best,
        split_mass,
        **arguments.shape,
        SPLIT=SPLIT,
        GROUP=GROUP,
        num_warps=4,
        **LAUNCH,
    )
    _groups_kernel[(num_rows,)](
        group_best,
        groups,
        NUM_GROUPS=num_groups,
        BLOCK=max(WIDTH, triton.next_power_of_2(num_groups)),
        WIDTH=WIDTH,
        num_warps=8,
        **LAUNCH,
    )
    _candidates_kernel[(num_rows,)](
        *arguments.logits, groups, values, ids, **arguments.shape, GROUP=GROUP, WIDTH=WIDTH, num_warps=8, **LAUNCH
    )
    _sort_kernel[(num_rows,)](values, ids, found.values, found.ids, WIDTH=WIDTH, num_warps=4, **LAUNCH)
    return found


@triton.jit
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
    GROUP: tl.constexpr,
):
    """A program a row and split. This exp may be coarse: the mass only bounds the nucleus."""
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    logits = row_logits(
        row,
        split * SPLIT + tl.arange(0, SPLIT),
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
    num_groups: tl.constexpr = SPLIT // GROUP
    group_best = tl.max(tl.reshape(logits, (num_groups, GROUP)), axis=1)
    split_best = tl.maximum(tl.max(group_best, axis=0), LOWEST)
    place = row * tl.num_programs(1) + split
    tl.store(group_best_ptr + place * num_groups + tl.arange(0, num_groups), group_best)
    tl.store(split_best_ptr + place, split_best)
    tl.store(split_mass_ptr + place, tl.sum(tl.exp(logits - split_best), axis=0))


@triton.jit
def _groups_kernel(
    group_best_ptr,  # (R, NUM_GROUPS)
    groups_ptr,  # (R, WIDTH) int32, rising; beyond NUM_GROUPS where there are fewer
    NUM_GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    groups = tl.arange(0, BLOCK)
    best = tl.load(group_best_ptr + row * NUM_GROUPS + groups, mask=groups < NUM_GROUPS, other=float("-inf"))
    is_taken, place = largest(best, WIDTH)
    tl.store(groups_ptr + row * WIDTH + place, groups, mask=is_taken)


@triton.jit
def _candidates_kernel(
    conditional_ptr,
    unconditional_ptr,
    guided_row_ptr,
    guidance_ptr,
    temperature_ptr,
    allowed_ptr,
    groups_ptr,  # (R, WIDTH) int32
    values_ptr,  # (R, WIDTH) float32
    ids_ptr,  # (R, WIDTH) int32, rising
    VOCAB: tl.constexpr,
    NUM_RANGES: tl.constexpr,
    HAS_GUIDANCE: tl.constexpr,
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
    is_taken, place = largest(logits, WIDTH)
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
