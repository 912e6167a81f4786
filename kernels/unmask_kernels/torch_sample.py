"""The sampler in plain torch for wide vocabularies on a CPU: bit for bit that of `reference_sample`.

What makes it fast: it reads only the ids that a row may take; it finds the best tokens by the maxima of blocks instead
of sorting rows; and all that is as wide as the vocabulary happens in place, in one small workspace (fresh memory costs
several times the arithmetic that fills it).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isqrt

import torch
from torch import Tensor

from unmask_kernels.choice import choose
from unmask_kernels.filters import Candidates, drop, has_top_k, has_top_p
from unmask_kernels.ordered import row_sum_
from unmask_kernels.rows import RowParams

_WORKSPACE = 1 << 20  # float32 elements, 4 MiB: stays in the cache
_NUCLEUS = 256  # tokens looked at first where only top-p is in force
_WIDER = 8  # more tokens looked at where those did not hold all kept ones

_IdRanges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Kind:
    """What rows must share to be handled together."""

    has_guidance: bool
    has_top_p: bool
    has_top_k: bool
    allowed: _IdRanges


@dataclass(frozen=True)
class _Layout:
    """Where the allowed ids stand in the workspace: id i in column i % width, so that `row_sum_` adds them in the same
    order as over the whole vocabulary: the width is a power of two at which no two of them meet, or all of it.
    """

    width: int
    ids: Tensor  # (width,) int64; 0 in a column without an allowed id
    pieces: tuple[tuple[slice, slice], ...]  # ids that stand side by side, and their columns
    has_gaps: bool


@dataclass(frozen=True)
class _Rows:
    """Rows of one kind."""

    logits_c: Tensor  # (R, V)
    logits_u: Tensor | None  # (R, V) where the kind has guidance
    params: RowParams
    kind: _Kind
    without_never: bool = False  # the rows took their forbidden id: this time it is not there

    def select(self, rows: Tensor | slice) -> "_Rows":
        logits_u = None if self.logits_u is None else self.logits_u[rows]
        return replace(self, logits_c=self.logits_c[rows], logits_u=logits_u, params=self.params.select(rows))


def sample_torch(logits_c: Tensor, logits_u: Tensor | None, params: RowParams) -> tuple[Tensor, Tensor]:
    """See `sample`."""
    tokens = torch.zeros(len(params), dtype=torch.int64, device=logits_c.device)
    confidence = torch.zeros(len(params), dtype=torch.float32, device=logits_c.device)
    vocabulary = logits_c.shape[1]
    done, guided_done = 0, 0
    for kind, count in _runs(params, vocabulary):
        run = slice(done, done + count)
        guided = slice(guided_done, guided_done + count * kind.has_guidance)
        logits_u_run = logits_u[guided] if logits_u is not None and kind.has_guidance else None
        rows = _Rows(logits_c[run], logits_u_run, params.select(run), kind)
        tokens[run], confidence[run] = _sample_run(rows, _layout(kind.allowed, vocabulary, logits_c.device))
        done, guided_done = run.stop, guided.stop
    return tokens, confidence


def _runs(params: RowParams, vocabulary: int) -> Iterator[tuple[_Kind, int]]:
    """Neighbouring rows of one kind, and how many they are: slices of the logits, where an index would copy them."""
    if len(params) == 0:
        return
    flags = torch.stack([params.guidance > 0, has_top_p(params.top_p), has_top_k(params.top_k, vocabulary)], dim=1)
    kinds = torch.cat([flags, params.allowed.flatten(1)], dim=1)
    distinct, counts = torch.unique_consecutive(kinds, dim=0, return_counts=True)
    for (guidance, top_p, top_k, *bounds), count in zip(distinct.tolist(), counts.tolist(), strict=True):
        ranges = tuple((start, stop) for start, stop in zip(bounds[::2], bounds[1::2], strict=True) if start < stop)
        yield _Kind(bool(guidance), bool(top_p), bool(top_k), ranges), count


@lru_cache(maxsize=16)
def _layout(ranges: _IdRanges, vocabulary: int, device: torch.device) -> _Layout:
    is_allowed = torch.zeros(vocabulary, dtype=torch.bool)
    for start, stop in ranges:
        is_allowed[start:stop] = True
    ids = is_allowed.nonzero().flatten()
    width = 1 << (len(ids) - 1).bit_length()
    while len(torch.unique(ids % width)) < len(ids):
        width *= 2
    width = min(width, vocabulary)
    column_ids = torch.zeros(width, dtype=torch.int64).index_copy(0, ids % width, ids)
    pieces = []
    for start, stop in ranges:
        for first in (start, *range((start // width + 1) * width, stop, width)):
            last = min(stop, (first // width + 1) * width)
            pieces.append((slice(first, last), slice(first % width, first % width + last - first)))
    return _Layout(width, column_ids.to(device), tuple(pieces), has_gaps=len(ids) < width)


def _sample_run(rows: _Rows, layout: _Layout) -> tuple[Tensor, Tensor]:
    num_rows = len(rows.params)
    at_once = min(num_rows, max(1, _WORKSPACE // layout.width))
    workspace = torch.empty(at_once, layout.width, device=rows.logits_c.device)
    parts = [
        _sample_rows(rows.select(slice(start, start + at_once)), layout, workspace)
        for start in range(0, num_rows, at_once)
    ]
    tokens, confidence = zip(*parts, strict=True)
    return torch.cat(tokens), torch.cat(confidence)


def _sample_rows(rows: _Rows, layout: _Layout, workspace: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Tokens (R,) and confidence (R,), from the `count` best logits of each row where they hold all that is kept."""
    params, kind = rows.params, rows.kind
    logits = workspace[: len(params)]
    _load(rows, layout, logits)
    if kind.has_top_p or kind.has_top_k:
        if count is None:
            count = 1 << int(params.top_k.max()).bit_length() if kind.has_top_k else _NUCLEUS
        best = _largest(logits, layout.ids, count)
        mass = row_sum_(logits.sub_(best.logits[:, :1]).exp_()) if kind.has_top_p else torch.ones_like(params.top_p)
        kept = drop(best.logits, mass, params.top_p, params.top_k)
        tokens, confidence = choose(Candidates(kept, best.ids), params)
        if kept.shape[1] < layout.width:
            worst_kept = torch.where(kept > -torch.inf, kept, torch.inf).amin(dim=1)
            missed = (worst_kept <= best.logits[:, -1]).nonzero().flatten()
            if len(missed):
                again = _sample_rows(rows.select(missed), layout, workspace, count * _WIDER)
                tokens[missed], confidence[missed] = again
    else:
        tokens, confidence = choose(Candidates(logits, layout.ids.expand_as(logits)), params)
    taken = (tokens == params.never).nonzero().flatten()
    if len(taken) and not rows.without_never:
        others = replace(rows.select(taken), without_never=True)
        tokens[taken], confidence[taken] = _sample_rows(others, layout, workspace)
    return tokens, confidence


def _load(rows: _Rows, layout: _Layout, logits: Tensor) -> None:
    """Fill `logits` (R, width): guidance, temperature, -inf in place of what is not allowed."""
    params = rows.params
    if layout.has_gaps:
        logits.fill_(-torch.inf)
    for ids, columns in layout.pieces:
        piece = logits[:, columns].copy_(rows.logits_c[:, ids])
        if rows.logits_u is not None:
            unconditional = rows.logits_u[:, ids]
            piece.sub_(unconditional).mul_(params.guidance.unsqueeze(1) + 1).add_(unconditional)
    is_sampled = params.temperature > 0
    if bool(is_sampled.any()):
        logits.div_(torch.where(is_sampled, params.temperature, 1).unsqueeze(1))
    if rows.without_never:
        logits.masked_fill_(layout.ids == params.never.unsqueeze(1), -torch.inf)


def _largest(logits: Tensor, column_ids: Tensor, count: int) -> Candidates:
    """The `count` largest logits of each row or more, by falling logit, then by rising id: (R, W)."""
    width = logits.shape[1]
    if count * _WIDER >= width:
        ids, by_id = torch.sort(column_ids)
        values, order = torch.sort(logits[:, by_id], dim=1, descending=True, stable=True)
        return Candidates(values, ids[order])
    # Blocks are strided: one holds every num_blocks-th column. The largest logits stand in the blocks with the largest
    # maxima, or in the few columns left over.
    size = isqrt(width // count)
    num_blocks = width // size
    maxima = logits[:, : size * num_blocks].view(-1, size, num_blocks).amax(dim=1)
    blocks = torch.topk(maxima, count, dim=1, sorted=False).indices
    in_blocks = blocks.unsqueeze(2) + torch.arange(0, size * num_blocks, num_blocks, device=logits.device)
    left_over = torch.arange(size * num_blocks, width, device=logits.device).expand(len(logits), -1)
    columns = torch.cat([in_blocks.flatten(1), left_over], dim=1)
    columns = columns.gather(1, torch.topk(logits.gather(1, columns), count, dim=1, sorted=False).indices)
    ids, order = torch.sort(column_ids[columns], dim=1)
    values, by_value = torch.sort(logits.gather(1, columns.gather(1, order)), dim=1, descending=True, stable=True)
    return Candidates(values, ids.gather(1, by_value))
