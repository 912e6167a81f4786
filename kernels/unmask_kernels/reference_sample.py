"""The sampler in plain torch: it defines what is correct and runs anywhere. Call it through `sample`."""

import torch
from torch import Tensor

from unmask_kernels.choice import choose
from unmask_kernels.filters import keep
from unmask_kernels.guidance import guide
from unmask_kernels.rows import RowParams

_CHUNK_ELEMENTS = 1 << 23  # logits handled at a time: bounds the memory of the temporaries


def sample_reference(logits_c: Tensor, logits_u: Tensor | None, params: RowParams) -> tuple[Tensor, Tensor]:
    """See `sample`."""
    num_rows, vocabulary = logits_c.shape
    tokens = torch.zeros(num_rows, dtype=torch.int64, device=logits_c.device)
    confidence = torch.zeros(num_rows, dtype=torch.float32, device=logits_c.device)
    guided_row = torch.cumsum(params.guidance > 0, dim=0) - 1  # where a guided row stands in logits_u
    for rows in torch.split(torch.arange(num_rows, device=logits_c.device), max(1, _CHUNK_ELEMENTS // vocabulary)):
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
    """(R, V) float32 -> (R,), (R,): temperature, constraint, filters, choice."""
    temperature = torch.where(params.temperature > 0, params.temperature, 1).unsqueeze(1)
    logits = (logits / temperature).masked_fill(~_is_allowed(params.allowed, logits.shape[1]), -torch.inf)
    return choose(keep(logits, params.top_p, params.top_k), params)


def _is_allowed(ranges: Tensor, vocabulary: int) -> Tensor:
    """(R, n, 2) half-open ranges -> (R, V) bool."""
    ids = torch.arange(vocabulary, device=ranges.device)
    allowed = torch.zeros(ranges.shape[0], vocabulary, dtype=torch.bool, device=ranges.device)
    for i in range(ranges.shape[1]):
        start, stop = ranges[:, i, :].unsqueeze(-1).unbind(dim=1)  # (R, 1), (R, 1)
        allowed |= (ids >= start) & (ids < stop)
    return allowed
