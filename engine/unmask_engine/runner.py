"""The runner turns sequences into logits. It packs embeddings; it knows nothing of steps, sampling or requests.

Each sequence has a forward pass of its own here, and a head of its own: matrix products round differently for other
shapes, and at temperature 0 a request's tokens must not depend on what else is in the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Backbone(Protocol):
    """What the runner needs of a model with hidden size H and vocabulary V."""

    def embed(self, ids: Tensor) -> Tensor:
        """(T,) -> (T, H)."""

    def forward_packed(self, embeds: Tensor, lengths: Sequence[int]) -> Tensor:
        """(T, H) of sequences end to end -> hidden states (T, H), with full attention inside each sequence."""

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, H) -> (R, V), not shifted."""


@dataclass(frozen=True)
class Row:
    """One sequence of a step: prompt, canvas, and which positions of it are to be predicted."""

    prompt: Tensor  # (P, H) embeddings
    canvas: Tensor  # (N,) int64
    predicted: Tensor  # (R,) int64, index in prompt + canvas (+ padding)
    padding: int = 0  # zero embeddings at the end, attended like any other


class Runner:
    def __init__(self, model: Backbone) -> None:
        self._model = model

    @torch.inference_mode()
    def run(self, rows: Sequence[Row]) -> list[Tensor]:
        """Logits of the predicted positions, one tensor (R, V) a row.

        Logits are shifted right by one: a position is predicted by the hidden state before it, position 0 by its own.
        """
        return [self._run_one(row) for row in rows]

    def _run_one(self, row: Row) -> Tensor:
        canvas = self._model.embed(row.canvas.to(row.prompt.device))
        embeds = torch.cat([row.prompt, canvas, canvas.new_zeros(row.padding, canvas.shape[1])])
        hidden = self._model.forward_packed(embeds, [len(embeds)])
        return self._model.logits(hidden[(row.predicted - 1).clamp_min(0).to(hidden.device)])
