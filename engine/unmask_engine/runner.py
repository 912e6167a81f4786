"""The runner turns sequences into logits, all of them in one forward pass without padding between them.

**Fixed shapes.** A library's matrix product may round a row otherwise when it is given another number of rows, and at
temperature 0 a request's tokens must not depend on what else is in the batch. On a CPU the products used here agree
bit for bit from 16 rows on (tests/engine/test_invariance.py holds this), so every product gets a multiple of that:
packed rows are filled up by one sequence of zeros, wanted rows by repeats that are cut off again. On a CUDA device the
products keep the order of their sums (models/products.py); there some numbers of rows are slow, and filled up further.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from unmask_engine.models.backbone import Wanted

TILE = 16  # rows
# Of up to 640 rows those at which a layer of the published model takes longer than with the next number that is not
# among them, since cuBLASLt chooses badly (H200, CUDA 13.0; docs/log.md, 2026-11-27).
SLOW_ON_CUDA = frozenset({16, 32, 48, 160, 192, 304, 320, 576})


def filled(num_rows: int, device: torch.device) -> int:
    """The number of rows that so many are filled up to."""
    total = -(-num_rows // TILE) * TILE
    while device.type == "cuda" and total in SLOW_ON_CUDA:
        total += TILE
    return total


class Backbone(Protocol):
    """What the runner needs of a model with hidden size H and vocabulary V."""

    def embed(self, ids: Tensor) -> Tensor:
        """(T,) -> (T, H)."""

    def forward_packed(self, embeds: Tensor, lengths: Sequence[int], wanted: Wanted) -> Tensor:
        """(T, H) of sequences end to end -> hidden states (R, H) of the wanted rows; full attention inside each."""

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, H) -> (R, V), not shifted."""


@dataclass(frozen=True)
class Row:
    """One sequence of a pack: prompt, then canvas."""

    prompt: Tensor  # (P, H) embeddings
    canvas: slice  # where its ids stand among the ids given to `Pack.run`
    padding: int = 0  # zero embeddings at the end, attended like any other; canvas positions are read as much later


class Pack:
    """Rows of one batch, laid out once and run at every step of it. Its slots are the canvas positions, row by row."""

    def __init__(self, model: Backbone, rows: Sequence[Row]) -> None:
        self._model = model
        hidden = rows[0].prompt
        sizes = [row.canvas.stop - row.canvas.start for row in rows]
        lengths = [len(row.prompt) + size + row.padding for row, size in zip(rows, sizes, strict=True)]
        filling = filled(sum(lengths), hidden.device) - sum(lengths)
        self._lengths = lengths + ([filling] if filling else [])
        self._embeds = hidden.new_zeros(sum(self._lengths), hidden.shape[1])
        slots, predictors = [], []
        for row, size, end in zip(rows, sizes, accumulate(lengths), strict=True):
            first = end - row.padding - size
            start = first - len(row.prompt)
            self._embeds[start:first] = row.prompt
            slots.append(torch.arange(first, first + size))
            # Logits are shifted right by one: a position is predicted by the row before it, position 0 by its own.
            predictors.append((slots[-1] + row.padding - 1).clamp_min(start))
        self._slots = torch.cat(slots).to(hidden.device)  # (S,) rows of the pack that hold canvas ids
        self._predictors = torch.cat(predictors).to(hidden.device)  # (S,) rows of the pack that predict them
        sources = torch.cat([torch.arange(row.canvas.start, row.canvas.stop) for row in rows])
        self._sources = sources.to(hidden.device)  # (S,) which ids they hold

    def run(self, ids: Tensor, wanted: Tensor, counts: Sequence[int]) -> Tensor:
        """ids (C,) and the slots to predict, `wanted` (R,), `counts` of them in each row -> logits (R, V)."""
        embeds = self._embeds.index_copy(0, self._slots, self._model.embed(ids[self._sources]))
        rows = self._predictors[wanted]
        rows = torch.cat([rows, rows[-1:].expand(filled(len(rows), rows.device) - len(rows))])
        without_filling = (*counts, *[0] * (len(self._lengths) - len(counts)))
        hidden = self._model.forward_packed(embeds, self._lengths, Wanted(rows, without_filling))
        return self._model.logits(hidden)[: len(wanted)]
