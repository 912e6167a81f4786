"""From the candidates of a row to its token and confidence. Source: decoding.md, One step, 5 to 7."""

import torch
from torch import Tensor

from unmask_kernels.confidence import ALGORITHMS, CONFIDENCE
from unmask_kernels.filters import Candidates
from unmask_kernels.noise import TOKEN_STREAM, gumbel, uniform
from unmask_kernels.ordered import row_softmax
from unmask_kernels.penalties import penalise, penalise_repetition
from unmask_kernels.rows import RowParams


def choose(candidates: Candidates, params: RowParams) -> tuple[Tensor, Tensor]:
    """Candidates (R, W) -> tokens (R,) int64, confidence (R,) float32: penalties, softmax, choice, confidence.

    Dropped candidates that are left out at the end of a row change nothing, bit for bit.
    """
    values = penalise_repetition(
        candidates.logits, candidates.ids, params.repetition_penalty, params.seen, params.request
    )
    values = penalise(values, params.position_strength.unsqueeze(1))
    probs = row_softmax(values)
    slot = _best_slot(values, candidates.ids, params)
    chosen = probs.gather(1, slot).squeeze(1)
    confidence = torch.zeros_like(chosen)
    for index in sorted(set(params.algorithm.tolist())):
        rows = (params.algorithm == index).nonzero().flatten()
        confidence[rows] = CONFIDENCE[ALGORITHMS[index]](probs[rows], chosen[rows])
    return candidates.ids.gather(1, slot).squeeze(1), confidence


def _best_slot(scores: Tensor, ids: Tensor, params: RowParams) -> Tensor:
    """(R, 1): where the largest logit stands, with Gumbel noise where sampled; ties to the lowest id."""
    rows = (params.temperature > 0).nonzero().flatten()
    if len(rows):
        draws = uniform(params.seed[rows], TOKEN_STREAM, params.step[rows], params.position[rows], ids[rows])
        scores = scores.index_copy(0, rows, scores[rows] + gumbel(draws))
    is_best = scores == scores.amax(dim=1, keepdim=True)
    return torch.where(is_best, ids, torch.iinfo(torch.int64).max).argmin(dim=1, keepdim=True)
