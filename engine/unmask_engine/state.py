"""A request while it is decoded: a frozen plan, the canvas, and how far it has come. Everything else is derived."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from unmask_engine.settings import Settings
from unmask_kernels.schedule import block_steps, commit_count, commit_counts

IdRanges = tuple[tuple[int, int], ...]  # half-open ranges of ids


@dataclass(frozen=True)
class Plan:
    """What determines the tokens of a request, complete before the first step."""

    settings: Settings
    prompt: Tensor  # (P, H) embeddings
    unconditional: Tensor | None  # (P_u, H) embeddings; there where settings.guidance > 0
    canvas: Tensor  # (N,) int64: pinned ids, the mask id elsewhere
    allowed: tuple[IdRanges, ...]  # N entries: the ids that each position may take
    mask: int  # id
    end: int | None  # id of the end mark; None decodes the canvas to its last position
    end_from: int = 0  # where the end mark ends the whole answer: before it, only its text

    def __post_init__(self) -> None:
        if len(self.allowed) != len(self.canvas):
            raise ValueError(f"{len(self.canvas)} canvas positions, but ranges for {len(self.allowed)}")
        if (self.settings.guidance > 0) != (self.unconditional is not None):
            raise ValueError("an unconditional prompt belongs to a request with guidance, and to no other")

    @cached_property
    def block_steps(self) -> tuple[int, ...]:
        """Steps of each block of the canvas; one block without `block_size`."""
        return block_steps(len(self.canvas), self.settings.block_size, self.settings.steps)

    @cached_property
    def steps(self) -> int:
        """Steps until the canvas is complete; an early end or `origin` may need fewer."""
        masked = self.canvas == self.mask
        size = self.settings.block_size or len(self.canvas)
        open_positions = (int(block.sum()) for block in torch.split(masked, size))
        if self.settings.algorithm == "origin":  # may commit nothing in a step, so it can need all of them
            return sum(steps for n, steps in zip(open_positions, self.block_steps, strict=True) if n)
        return sum(len(commit_counts(n, steps)) for n, steps in zip(open_positions, self.block_steps, strict=True))


@dataclass
class DecodingState:
    """Changed by `commit` alone. `ids` starts as the plan's canvas."""

    plan: Plan
    ids: Tensor = field(init=False)  # (N,) int64
    confidence: Tensor = field(init=False)  # (N,) float32, as scored when committed; NaN where nothing was committed
    block: int = field(init=False, default=0)
    block_step: int = field(init=False, default=0)
    step: int = field(init=False, default=0)  # steps done

    def __post_init__(self) -> None:
        self.ids = self.plan.canvas.clone()
        self.confidence = torch.full(self.ids.shape, torch.nan)
        self._skip_finished_blocks()

    @property
    def masked(self) -> Tensor:
        """(N,) bool."""
        return self.ids == self.plan.mask

    @property
    def window(self) -> slice:
        """The current block."""
        size = self.plan.settings.block_size or len(self.ids)
        return slice(self.block * size, (self.block + 1) * size)

    @property
    def open_positions(self) -> Tensor:
        """(R,) the masked positions that this step may commit: those of the current block."""
        if self._origin_ignores_blocks:
            return self.masked.nonzero().flatten()
        inside = torch.zeros_like(self.masked)
        inside[self.window] = True
        return (self.masked & inside).nonzero().flatten()

    @property
    def commit_count(self) -> int:
        """How many positions this step commits."""
        num_open = int(self.masked[self.window].sum())
        return commit_count(num_open, self.block_step, self.plan.block_steps[self.block])

    @property
    def has_ended(self) -> bool:
        """The end mark is committed and so is everything before it: what follows cannot change the answer."""
        if self.plan.end is None:
            return False
        tail = self.ids[self.plan.end_from :]
        ends = (tail == self.plan.end).nonzero()
        return len(ends) > 0 and not bool(self.masked[: self.plan.end_from + int(ends[0])].any())

    @property
    def is_done(self) -> bool:
        return self.block == len(self.plan.block_steps) or self.has_ended

    def commit(self, positions: Tensor, tokens: Tensor, confidence: Tensor) -> None:
        """Finish a step: write tokens (k,) with their confidence (k,) at positions (k,) and move on."""
        self.ids[positions] = tokens
        self.confidence[positions] = confidence
        self.step += 1
        self.block_step += 1
        self._skip_finished_blocks()

    def _skip_finished_blocks(self) -> None:
        while self.block < len(self.plan.block_steps):
            is_used_up = self.block_step == self.plan.block_steps[self.block]
            if not is_used_up and bool(self.masked[self.window].any()):
                return
            self.block += 1
            self.block_step = 0

    @property
    def _origin_ignores_blocks(self) -> bool:
        """The reference's `origin` fills masked positions of any block; here they stay inside (decoding.md)."""
        return self.plan.settings.reference_compat and self.plan.settings.algorithm == "origin"


def unconstrained(canvas: Tensor, ranges: IdRanges) -> tuple[IdRanges, ...]:
    """The same ranges at every position of a canvas (N,)."""
    return (ranges,) * len(canvas)


def canvas_of(length: int, mask: int, pins: dict[int, int] | None = None) -> Tensor:
    """(N,) int64: the mask id but for the pins, position -> id."""
    ids = torch.full((length,), mask, dtype=torch.int64)
    for position, token in (pins or {}).items():
        ids[position] = token
    return ids
