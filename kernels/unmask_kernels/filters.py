"""Top-p, then top-k: which tokens of a row stay. Source: decoding.md, One step, 3 and 4."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask_kernels.ordered import row_sum

NO_TOP_K = 0
NO_TOP_P = 1.0
_FIRST_WIDTH = 256  # tokens looked at first where only top-p is in force


@dataclass(frozen=True)
class Candidates:
    """The tokens a row may still take, best first where a filter is in force, else by id."""

    logits: Tensor  # (R, W) float32, -inf where the token is dropped
    ids: Tensor  # (R, W) int64


def keep(logits: Tensor, top_p: Tensor, top_k: Tensor) -> Candidates:
    """Drop what the filters drop: logits (R, V) float32, top_p (R,), top_k (R,) with NO_TOP_P and NO_TOP_K as "off".

    Top-p keeps a token while the probability mass before it is <= p (equal logits in the order of their ids), so the
    best token always stays. Top-k then keeps what is at least the k-th largest kept logit, ties included. Both keep a
    prefix of the sorted row, so only a prefix is sorted: it grows until its last logit is below every kept one.
    """
    num_rows, vocabulary = logits.shape
    limit = torch.where(top_k > NO_TOP_K, top_k.clamp(max=vocabulary), vocabulary)  # (R,)
    is_limited = limit < vocabulary
    if not bool((is_limited | (top_p < NO_TOP_P)).any()):
        return Candidates(logits, torch.arange(vocabulary, device=logits.device).expand(num_rows, -1))
    best = logits.amax(dim=1, keepdim=True)
    mass = row_sum(torch.exp(logits - best)).unsqueeze(1)  # (R, 1)
    width = _FIRST_WIDTH
    if bool(is_limited.all()):
        width = 1 << int(limit.max()).bit_length()
    while True:
        width = min(width, vocabulary)
        values, ids = _largest(logits, width)
        before = torch.cumsum(torch.exp(values - best) / mass, dim=1).roll(1, dims=1)
        before[:, 0] = 0
        in_nucleus = (before <= top_p.unsqueeze(1)) | (top_p >= NO_TOP_P).unsqueeze(1)
        kth = values.gather(1, (limit - 1).clamp(max=width - 1).unsqueeze(1))
        kept = in_nucleus & (values >= kth) & (values > -torch.inf)
        worst_kept = values.masked_fill(~kept, torch.inf).amin(dim=1)
        if width == vocabulary or bool((worst_kept > values[:, -1]).all()):
            return Candidates(values.masked_fill(~kept, -torch.inf), ids)
        width *= 4


def _largest(logits: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The `width` largest logits of each row, by falling logit, then by rising id: (R, W), (R, W)."""
    if width == logits.shape[1]:
        values, ids = torch.sort(logits, dim=1, descending=True, stable=True)
        return values, ids
    _, ids = torch.topk(logits, width, dim=1, sorted=False)
    ids = torch.sort(ids, dim=1).values
    values, order = torch.sort(logits.gather(1, ids), dim=1, descending=True, stable=True)
    return values, ids.gather(1, order)
