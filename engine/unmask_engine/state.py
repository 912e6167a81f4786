"""A request while it is decoded: a frozen plan, how far its schedule has come, and the tokens that have arrived.

The schedule needs no tokens: how many positions a step opens and commits is arithmetic. So a step can begin before the
tokens of the one before have come back from the device. What commits by chance (`origin`) or may commit a MASK (the
reference's arithmetic) has to wait for them.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from unmask_engine.settings import Settings
from unmask_kernels.reveal import BY_RANK
from unmask_kernels.schedule import block_steps, commit_count, commit_counts, commit_probability

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
    def block_size(self) -> int:
        return min(self.settings.block_size or len(self.canvas), len(self.canvas))

    @cached_property
    def block_steps(self) -> tuple[int, ...]:
        """Steps of each block of the canvas; one block without `block_size`."""
        return block_steps(len(self.canvas), self.settings.block_size, self.settings.steps)

    @cached_property
    def steps(self) -> int:
        """Steps until the canvas is complete; an early end or `origin` may need fewer."""
        blocks = zip(self.masked_per_block(self.canvas), self.block_steps, strict=True)
        if self.settings.algorithm == "origin":  # may commit nothing in a step, so it can need all of them
            return sum(steps for masked, steps in blocks if masked)
        return sum(len(commit_counts(masked, steps)) for masked, steps in blocks)

    @property
    def tokens(self) -> int:
        """Rows of one forward pass: prompt and canvas, twice with guidance."""
        rows = len(self.prompt) + len(self.canvas)
        if self.unconditional is None:
            return rows
        return rows + (rows if self.settings.reference_compat else len(self.unconditional) + len(self.canvas))

    def masked_per_block(self, ids: Tensor) -> list[int]:
        return [int(block.sum()) for block in torch.split(ids == self.mask, self.block_size)]


@dataclass(frozen=True)
class Step:
    """What is known of a step before it runs."""

    number: int  # steps begun before it
    start: int  # the canvas positions from here ...
    stop: int  # ... to before here may be committed
    num_open: int  # masked ones among them
    num_masked: int  # masked ones in the whole canvas
    count: int  # how many are committed; not looked at for `origin`
    probability: float  # chance of each to be committed for `origin`, else BY_RANK


@dataclass(eq=False)
class DecodingState:
    """`begin` moves the schedule on, `finish` brings a begun step's tokens. `ids` starts as the plan's canvas."""

    plan: Plan
    ids: Tensor = field(init=False)  # (N,) int64
    confidence: Tensor = field(init=False)  # (N,) float32, as scored when committed; NaN where nothing was committed
    committed_in: Tensor = field(init=False)  # (N,) int64, the step that committed a position; -1 where none has
    guesses: Tensor = field(init=False)  # (N,) int64, what the last step said where it committed nothing; else MASK
    guess_confidence: Tensor = field(init=False)  # (N,) float32
    step: int = field(init=False, default=0)  # steps finished
    begun: int = field(init=False, default=0)  # steps begun
    _block: int = field(init=False, default=0)
    _block_step: int = field(init=False, default=0)
    _masked: list[int] = field(init=False)  # a block, after the steps begun

    def __post_init__(self) -> None:
        self.ids = self.plan.canvas.clone()
        self.confidence = torch.full(self.ids.shape, torch.nan)
        self.committed_in = torch.full_like(self.ids, -1)
        self.guesses = torch.full_like(self.ids, self.plan.mask)
        self.guess_confidence = torch.full(self.ids.shape, torch.nan)
        self._masked = self.plan.masked_per_block(self.ids)
        self._skip_finished_blocks()

    @property
    def masked(self) -> Tensor:
        """(N,) bool."""
        return self.ids == self.plan.mask

    @property
    def has_ended(self) -> bool:
        """The end mark is committed and so is everything before it: what follows cannot change the answer."""
        if self.plan.end is None:
            return False
        ends = (self.ids[self.plan.end_from :] == self.plan.end).nonzero()
        return len(ends) > 0 and not bool(self.masked[: self.plan.end_from + int(ends[0])].any())

    @property
    def is_done(self) -> bool:
        """No step is missing."""
        return (self._is_begun and self.step == self.begun) or self.has_ended

    @property
    def can_begin(self) -> bool:
        waits = self._is_unforeseeable and self.step < self.begun
        return not self._is_begun and not waits and not self.has_ended

    @property
    def remaining_steps(self) -> int:
        """At most so many are still to begin."""
        blocks = range(self._block, len(self.plan.block_steps))
        left = [self.plan.block_steps[b] - (self._block_step if b == self._block else 0) for b in blocks]
        return sum(min(steps, self._masked[b]) for b, steps in zip(blocks, left, strict=True))

    def next_step(self) -> Step:
        """The step that `begin` would begin."""
        size, steps = self.plan.block_size, self.plan.block_steps[self._block]
        total = sum(self._masked)
        everywhere = self._ignores_blocks
        return Step(
            number=self.begun,
            start=0 if everywhere else self._block * size,
            stop=len(self.ids) if everywhere else (self._block + 1) * size,
            num_open=total if everywhere else self._masked[self._block],
            num_masked=total,
            count=commit_count(self._masked[self._block], self._block_step, steps),
            probability=commit_probability(self._block_step, steps) if self._is_by_chance else BY_RANK,
        )

    def begin(self) -> None:
        """Count the next step as begun."""
        count = self.next_step().count
        self.begun += 1
        self._block_step += 1
        if not self._is_unforeseeable:
            self._masked[self._block] -= count
            self._skip_finished_blocks()

    def finish(self, positions: Tensor, tokens: Tensor, confidence: Tensor, is_committed: Tensor) -> None:
        """The oldest begun step has run: its open positions (R,), their tokens and confidence, which are committed.

        What arrives after the end of the answer is dropped.
        """
        if self.has_ended:
            return
        self.guesses.fill_(self.plan.mask)
        self.guesses[positions] = torch.where(is_committed, self.plan.mask, tokens)
        self.guess_confidence[positions] = confidence
        committed = positions[is_committed]
        self.ids[committed] = tokens[is_committed]
        self.confidence[committed] = confidence[is_committed]
        self.committed_in[committed] = self.step
        self.step += 1
        if self._is_unforeseeable:
            self._masked = self.plan.masked_per_block(self.ids)
            self._skip_finished_blocks()

    def _skip_finished_blocks(self) -> None:
        while not self._is_begun:
            is_used_up = self._block_step == self.plan.block_steps[self._block]
            if not is_used_up and self._masked[self._block]:
                return
            self._block += 1
            self._block_step = 0

    @property
    def _is_begun(self) -> bool:
        return self._block == len(self.plan.block_steps)

    @property
    def _is_by_chance(self) -> bool:
        return self.plan.settings.algorithm == "origin"

    @property
    def _is_unforeseeable(self) -> bool:
        """How many positions are masked after a step is known only when its tokens have come."""
        return self._is_by_chance or self.plan.settings.reference_compat

    @property
    def _ignores_blocks(self) -> bool:
        """The reference's `origin` fills masked positions of any block; here they stay inside (decoding.md)."""
        return self.plan.settings.reference_compat and self._is_by_chance


def unconstrained(canvas: Tensor, ranges: IdRanges) -> tuple[IdRanges, ...]:
    """The same ranges at every position of a canvas (N,)."""
    return (ranges,) * len(canvas)


def canvas_of(length: int, mask: int, pins: dict[int, int] | None = None) -> Tensor:
    """(N,) int64: the mask id but for the pins, position -> id."""
    ids = torch.full((length,), mask, dtype=torch.int64)
    for position, token in (pins or {}).items():
        ids[position] = token
    return ids
