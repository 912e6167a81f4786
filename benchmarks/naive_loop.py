"""One denoising step as the published reference takes it, for a comparison: one request, plain torch, nothing shared.

The head runs over the whole sequence, top-p sorts the whole vocabulary, penalties are boolean indexing on full-width
logits, the repetition penalty once a distinct token, guidance a second pass over a whole sequence. Left out are what
the reference does besides without using it (a softmax over all positions, copies of the logits). Ties go to the lowest
position, where the reference leaves them open.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask_engine.models.omni import OmniModel
from unmask_kernels.schedule import commit_counts

FREE_RANKS = 100


@dataclass(frozen=True)
class NaiveSettings:
    top_p: float
    top_k: int
    repetition_penalty: float
    position_penalty: float
    guidance: float = 0.0


def naive_decode(
    model: OmniModel,
    prompt: Tensor,
    unconditional: Tensor | None,
    ids: Tensor,
    mask: int,
    steps: int,
    settings: NaiveSettings,
) -> Tensor:
    """A canvas (N,), all of it masked, decoded to its end."""
    for number, count in enumerate(commit_counts(len(ids), steps)):
        ids = naive_step(model, prompt, ids, mask, count, number == 0, settings, unconditional)
    return ids


@torch.no_grad()  # not inference_mode, in which the engine's layers become CUDA graphs: the reference has none
def naive_step(
    model: OmniModel,
    prompt: Tensor,
    ids: Tensor,
    mask: int,
    count: int,
    is_first: bool,
    settings: NaiveSettings,
    unconditional: Tensor | None = None,
) -> Tensor:
    """Prompt (P, H) embeddings, canvas (N,) -> the canvas with its `count` most confident masked positions filled."""
    logits = canvas_logits(model, prompt, ids)
    if unconditional is not None:
        against = canvas_logits(model, unconditional, ids)
        logits = against + (settings.guidance + 1) * (logits - against)
    is_masked = ids == mask
    is_penalised = settings.repetition_penalty != 1 and not is_first
    history = [token for token in ids.unique().tolist() if token not in (0, mask)] if is_penalised else []
    tokens, confidence = sample_tokens(logits[is_masked], history, settings)
    chosen = torch.sort(confidence, descending=True, stable=True).indices[:count]
    ids = ids.clone()
    ids[is_masked.nonzero().flatten()[chosen]] = tokens[chosen]
    return ids


def canvas_logits(model: OmniModel, prompt: Tensor, ids: Tensor) -> Tensor:
    """(N, V), after the head has run over the prompt, too."""
    embeds = torch.cat([prompt, model.embed(ids)])
    logits = model.logits(model.forward_packed(embeds, [len(embeds)]))
    return torch.cat([logits[:1], logits[:-1]])[len(prompt) :]


def sample_tokens(logits: Tensor, history: list[int], settings: NaiveSettings) -> tuple[Tensor, Tensor]:
    """Tokens (R,) and their negative entropy (R,) of logits (R, V), which are overwritten."""
    logits = filter_top_p(logits, settings.top_p)
    logits = filter_top_k(logits, settings.top_k)
    for token in history:
        column = logits[:, token]
        is_negative = column < 0
        column[is_negative] *= settings.repetition_penalty
        column[~is_negative] /= settings.repetition_penalty
    if settings.position_penalty != 1 and len(logits) > FREE_RANKS:
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
    return logits.masked_fill(is_dropped, torch.finfo(logits.dtype).min)


def filter_top_k(logits: Tensor, top_k: int) -> Tensor:
    kth = torch.topk(logits, top_k).values[:, -1:]
    return logits.masked_fill(logits < kth, torch.finfo(logits.dtype).min)


def penalise_position(logits: Tensor, maximum: float) -> None:
    beyond = len(logits) - FREE_RANKS
    strength = torch.ones(len(logits), device=logits.device)
    strength[FREE_RANKS:] += torch.arange(beyond, device=logits.device) / beyond * (maximum - 1)
    strength = strength.to(logits.dtype)
    strength = strength.unsqueeze(1).repeat(1, logits.shape[1])
    rows, columns = torch.nonzero(logits < 0, as_tuple=True)
    logits[rows, columns] *= strength[rows, columns]
    rows, columns = torch.nonzero(logits >= 0, as_tuple=True)
    logits[rows, columns] /= strength[rows, columns]
