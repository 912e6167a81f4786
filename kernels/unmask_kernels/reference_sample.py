"""The sampler in plain torch: it defines what is correct and runs anywhere. Call it through `sample`."""

import torch
from torch import Tensor

from unmask_kernels.confidence import ALGORITHMS, CONFIDENCE
from unmask_kernels.filters import NO_TOP_K, NO_TOP_P, Candidates, keep
from unmask_kernels.guidance import guide
from unmask_kernels.noise import TOKEN_STREAM, gumbel, uniform
from unmask_kernels.ordered import row_softmax
from unmask_kernels.penalties import penalise, penalise_repetition
from unmask_kernels.rows import RowParams

_CHUNK_ELEMENTS = 1 << 25  # logits handled at a time: bounds the memory of the float32 temporaries


def sample_reference(logits_c: Tensor, logits_u: Tensor | None, params: RowParams) -> tuple[Tensor, Tensor]:
    """See `sample`. Rows are taken in groups that need the same amount of sorting, each in chunks."""
    num_rows, vocabulary = logits_c.shape
    tokens = torch.zeros(num_rows, dtype=torch.int64, device=logits_c.device)
    confidence = torch.zeros(num_rows, dtype=torch.float32, device=logits_c.device)
    guided_row = torch.cumsum(params.guidance > 0, dim=0) - 1  # where a guided row stands in logits_u
    has_top_k = (params.top_k > NO_TOP_K) & (params.top_k < vocabulary)
    has_top_p = params.top_p < NO_TOP_P
    for group in (has_top_k, ~has_top_k & has_top_p, ~has_top_k & ~has_top_p):
        members = group.nonzero().flatten()
        if len(members) == 0:
            continue
        for rows in torch.split(members, max(1, _CHUNK_ELEMENTS // vocabulary)):
            part = params.select(rows)
            logits = logits_c[rows].float()
            guided = (part.guidance > 0).nonzero().flatten()
            if logits_u is not None and len(guided):
                logits[guided] = guide(logits[guided], logits_u[guided_row[rows[guided]]], part.guidance[guided])
            tokens[rows], confidence[rows] = _sample_taking_none_forbidden(logits, part)
    return tokens, confidence


def _sample_taking_none_forbidden(logits: Tensor, params: RowParams) -> tuple[Tensor, Tensor]:
    """A row that takes its forbidden id is sampled again without it; every other row is as if nothing were forbidden.

    Dropping the id everywhere would move the confidence, hence the order, of rows that merely weigh it.
    """
    tokens, confidence = _sample_rows(logits, params)
    again = (tokens == params.never).nonzero().flatten()
    if len(again):
        without = logits[again].scatter(1, params.never[again].unsqueeze(1), -torch.inf)
        tokens[again], confidence[again] = _sample_rows(without, params.select(again))
    return tokens, confidence


def _sample_rows(logits: Tensor, params: RowParams) -> tuple[Tensor, Tensor]:
    """(R, V) float32 -> (R,), (R,): temperature, constraint, filters, penalties, choice, confidence."""
    is_sampled = params.temperature > 0
    logits = logits / torch.where(is_sampled, params.temperature, 1).unsqueeze(1)  # a copy: the caller's stay
    logits = _only_allowed(logits, params.allowed)
    candidates = keep(logits, params.top_p, params.top_k)
    values = penalise_repetition(
        candidates.logits, candidates.ids, params.repetition_penalty, params.seen, params.request
    )
    values = penalise(values, params.position_strength.unsqueeze(1))
    probs = row_softmax(values)
    slot = _choose(Candidates(values, candidates.ids), is_sampled, params)  # (R, 1)
    chosen = probs.gather(1, slot).squeeze(1)
    confidence = torch.zeros_like(chosen)
    for index in sorted(set(params.algorithm.tolist())):
        rows = (params.algorithm == index).nonzero().flatten()
        confidence[rows] = CONFIDENCE[ALGORITHMS[index]](probs[rows], chosen[rows])
    return candidates.ids.gather(1, slot).squeeze(1), confidence


def _only_allowed(logits: Tensor, allowed: Tensor) -> Tensor:
    """Set what is outside a row's ranges to -inf; rows with the same ranges share one mask."""
    for_rows, which = torch.unique(allowed, dim=0, return_inverse=True)
    for index, ranges in enumerate(for_rows.tolist()):
        is_outside = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        for start, stop in ranges:
            is_outside[start:stop] = False
        if bool(is_outside.any()):
            rows = (which == index).nonzero().flatten()
            logits[rows] = logits[rows].masked_fill(is_outside, -torch.inf)
    return logits


def _choose(candidates: Candidates, is_sampled: Tensor, params: RowParams) -> Tensor:
    """Slot of each row's token, (R, 1): the largest logit, with Gumbel noise where sampled; ties to the lowest id."""
    scores = candidates.logits
    rows = is_sampled.nonzero().flatten()
    if len(rows):
        draws = uniform(params.seed[rows], TOKEN_STREAM, params.step[rows], params.position[rows], candidates.ids[rows])
        scores = scores.index_copy(0, rows, scores[rows] + gumbel(draws))
    is_best = scores == scores.amax(dim=1, keepdim=True)
    return torch.where(is_best, candidates.ids, torch.iinfo(torch.int64).max).argmin(dim=1, keepdim=True)
