"""Top-p, then top-k: which tokens of a row stay. Source: decoding.md, One step, 3 and 4."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask_kernels.ordered import row_sum

NO_TOP_K = 0
NO_TOP_P = 1.0


@dataclass(frozen=True)
class Candidates:
    """The tokens a row may still take, best first where a filter is in force, else in the order of the row."""

    logits: Tensor  # (R, W) float32, -inf where the token is dropped
    ids: Tensor  # (R, W) int64


def keep(logits: Tensor, top_p: Tensor, top_k: Tensor) -> Candidates:
    """Drop what the filters drop: logits (R, V) float32, top_p (R,), top_k (R,) with NO_TOP_P and NO_TOP_K as "off".

    Top-p keeps a token while the probability mass before it is <= p (equal logits in the order of their ids), so the
    best token always stays. Top-k then keeps what is at least the k-th largest kept logit, ties included.
    """
    vocabulary = logits.shape[1]
    values, ids = torch.sort(logits, dim=1, descending=True, stable=True)
    mass = row_sum(torch.exp(logits - values[:, :1]))
    kept = drop(values, mass, top_p, top_k)
    is_filtered = (has_top_p(top_p) | has_top_k(top_k, vocabulary)).unsqueeze(1)
    by_id = torch.arange(vocabulary, device=logits.device)
    return Candidates(torch.where(is_filtered, kept, logits), torch.where(is_filtered, ids, by_id))


def drop(values: Tensor, mass: Tensor, top_p: Tensor, top_k: Tensor) -> Tensor:
    """-inf for what the filters drop from the W best logits of each row, (R, W), best first.

    `mass` (R,) is the sum of exp(logit - best logit) over the whole row. Both filters keep a prefix; it is that of the
    whole row if its last value is above the last of `values`.
    """
    shares = torch.exp(values - values[:, :1]) / mass.unsqueeze(1)
    # Summed in float64, in which the order of a device's scan cannot be seen in the float32 result.
    before = torch.cumsum(shares, dim=1, dtype=torch.float64).float().roll(1, dims=1)
    before[:, 0] = 0
    in_nucleus = (before <= top_p.unsqueeze(1)) | ~has_top_p(top_p).unsqueeze(1)
    width = values.shape[1]
    last = torch.where(top_k > NO_TOP_K, top_k.clamp(max=width), width) - 1
    kth = values.gather(1, last.unsqueeze(1))
    return values.masked_fill(~(in_nucleus & (values >= kth)), -torch.inf)


def has_top_p(top_p: Tensor) -> Tensor:
    return top_p < NO_TOP_P


def has_top_k(top_k: Tensor, vocabulary: int) -> Tensor:
    return (top_k > NO_TOP_K) & (top_k < vocabulary)
