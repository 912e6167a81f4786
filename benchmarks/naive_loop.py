"""One denoising step as the published reference takes it, for a comparison: one request, plain torch, nothing shared.

The head runs over the whole sequence, top-p sorts the whole vocabulary, penalties are boolean indexing on full-width
logits, the repetition penalty once a distinct token. Left out are what the reference does besides without using it
(a softmax over all positions, copies of the logits). Ties go to the lowest position, where the reference leaves them
open.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask_engine.models.omni import OmniModel

LOWEST = torch.finfo(torch.float32).min
FREE_RANKS = 100


@dataclass(frozen=True)
class NaiveSettings:
    top_p: float
    top_k: int
    repetition_penalty: float
    position_penalty: float


@torch.inference_mode()
def naive_step(
    model: OmniModel, prompt: Tensor, ids: Tensor, mask: int, count: int, is_first: bool, settings: NaiveSettings
) -> Tensor:
    """Prompt (P, H) embeddings, canvas (N,) -> the canvas with its `count` most confident masked positions filled."""
    embeds = torch.cat([prompt, model.embed(ids)])
    logits = model.logits(model.forward_packed(embeds, [len(embeds)]))
    logits = torch.cat([logits[:1], logits[:-1]])[len(prompt) :]
    is_masked = ids == mask
    history = [] if is_first else [token for token in ids.unique().tolist() if token not in (0, mask)]
    tokens, confidence = sample_tokens(logits[is_masked], history, settings)
    chosen = torch.sort(confidence, descending=True, stable=True).indices[:count]
    ids = ids.clone()
    ids[is_masked.nonzero().flatten()[chosen]] = tokens[chosen]
    return ids


def sample_tokens(logits: Tensor, history: list[int], settings: NaiveSettings) -> tuple[Tensor, Tensor]:
    """Tokens (R,) and their negative entropy (R,) of logits (R, V), which are overwritten."""
    logits = filter_top_p(logits, settings.top_p)
    logits = filter_top_k(logits, settings.top_k)
    for token in history:
        column = logits[:, token]
        is_negative = column < 0
        column[is_negative] *= settings.repetition_penalty
        column[~is_negative] /= settings.repetition_penalty
    if len(logits) > FREE_RANKS:
        penalise_position(logits, settings.position_penalty)
    probs = torch.softmax(logits, dim=-1)
    tokens = probs.max(dim=-1).indices
    return tokens, torch.sum(probs * torch.log(probs + 1e-10), dim=-1)


def filter_top_p(logits: Tensor, top_p: float) -> Tensor:
    values, ids = torch.sort(logits, descending=True)
    is_beyond = torch.cumsum(torch.softmax(values, dim=-1), dim=-1) > top_p
    is_beyond[:, 1:] = is_beyond[:, :-1].clone()
    is_beyond[:, 0] = False
    is_dropped = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, ids, is_beyond)
    return logits.masked_fill(is_dropped, LOWEST)


def filter_top_k(logits: Tensor, top_k: int) -> Tensor:
    return logits.masked_fill(logits < torch.topk(logits, top_k).values[:, -1:], LOWEST)


def penalise_position(logits: Tensor, maximum: float) -> None:
    beyond = len(logits) - FREE_RANKS
    strength = torch.ones(len(logits))
    strength[FREE_RANKS:] += torch.arange(beyond) / beyond * (maximum - 1)
    strength = strength.unsqueeze(1).repeat(1, logits.shape[1])
    rows, columns = torch.nonzero(logits < 0, as_tuple=True)
    logits[rows, columns] *= strength[rows, columns]
    rows, columns = torch.nonzero(logits >= 0, as_tuple=True)
    logits[rows, columns] /= strength[rows, columns]
