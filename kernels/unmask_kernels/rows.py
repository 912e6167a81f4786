"""What the sampler has to know about each row. One tensor a parameter, so rows of different requests can be mixed."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import torch
from torch import Tensor

ANY: Final = -1  # RowParams.never of a row that may take what it is allowed


@dataclass(frozen=True)
class RowParams:
    """Parameters of R rows that belong to G requests over a vocabulary of V."""

    algorithm: Tensor  # (R,) int64, index into confidence.ALGORITHMS
    temperature: Tensor  # (R,) float32, 0 takes the best token
    top_p: Tensor  # (R,) float32, filters.NO_TOP_P is off
    top_k: Tensor  # (R,) int64, filters.NO_TOP_K is off
    repetition_penalty: Tensor  # (R,) float32, 1 is off
    position_strength: Tensor  # (R,) float32, of penalties.position_strength, 1 is off
    guidance: Tensor  # (R,) float32, 0 is off and the row's unconditional logits are not looked at
    seed: Tensor  # (R,) int64
    step: Tensor  # (R,) int64
    position: Tensor  # (R,) int64, place in the canvas
    allowed: Tensor  # (R, n, 2) int64, the ids a row may take as half-open ranges; empty ranges fill up
    never: Tensor  # (R,) int64, the id that a row may weigh but not take (MASK), or ANY
    request: Tensor  # (R,) int64 in 0..G-1
    seen: Tensor  # (G, V) bool, ids that the request's answer already holds

    def __len__(self) -> int:
        return self.algorithm.shape[0]

    def select(self, rows: Tensor | slice) -> "RowParams":
        """The given rows; `request` goes on pointing into the same `seen`."""
        picked = {field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name != "seen"}
        return replace(self, **picked)

    def to(self, device: torch.device) -> "RowParams":
        return RowParams(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    @staticmethod
    def cat(parts: Sequence["RowParams"]) -> "RowParams":
        """Rows of several calls as one."""
        columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(RowParams)}
        first_request = 0
        num_ranges = max(ranges.shape[1] for ranges in columns["allowed"])
        for i, part in enumerate(parts):
            columns["request"][i] = part.request + first_request
            columns["allowed"][i] = _fill_up(part.allowed, num_ranges)
            first_request += part.seen.shape[0]
        return RowParams(**{name: torch.cat(values) for name, values in columns.items()})


def _fill_up(ranges: Tensor, num_ranges: int) -> Tensor:
    num_rows, present, _ = ranges.shape
    return torch.cat([ranges, ranges.new_zeros(num_rows, num_ranges - present, 2)], dim=1)
