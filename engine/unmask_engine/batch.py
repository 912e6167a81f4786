"""The requests that share a step, end to end on the device: their canvases, and what sampler and reveal go by.

What a step needs besides is a few numbers a request, known before it runs. So nothing here waits for the device;
tokens come back as a `Commit`, read when somebody wants them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from unmask_engine.runner import Backbone, Pack, Row
from unmask_engine.state import DecodingState, Plan, Step
from unmask_engine.transfer import send
from unmask_kernels import noise
from unmask_kernels.confidence import ALGORITHMS
from unmask_kernels.penalties import position_strength
from unmask_kernels.reveal import RevealParams
from unmask_kernels.rows import ANY, RowParams


@dataclass(frozen=True)
class OpenRows:
    """The canvas positions that a step may commit, R of G requests, and what holds for them."""

    steps: tuple[Step, ...]
    index: Tensor  # (R,) into the batch's flat canvas
    request: Tensor  # (R,) in 0..G-1
    guided: Tensor  # (R_u,) into `index`
    integers: Tensor  # (len(_INTEGERS), R) int64
    reals: Tensor  # (len(_REALS), R) float32
    num_masked: Tensor  # (R,) masked positions of the request's canvas
    rank: Tensor  # (R,) among them, from the left
    counts: Tensor  # (G,) to commit


@dataclass(frozen=True)
class Commit:
    """What a step committed, still on its way from the device. `states` are the batch's."""

    states: tuple[DecodingState, ...]
    sizes: list[int]  # rows of each state
    position: Tensor  # (R,) in the canvas
    tokens: Tensor  # (R,)
    confidence: Tensor  # (R,)
    is_committed: Tensor  # (R,) bool
    arrived: torch.cuda.Event | None = None

    def finish(self) -> None:
        """Wait for the tokens and hand them to the states."""
        if self.arrived is not None:
            self.arrived.synchronize()
        columns = (self.position, self.tokens, self.confidence, self.is_committed)
        for state, *rows in zip(self.states, *(torch.split(c, self.sizes) for c in columns), strict=True):
            state.finish(*rows)


class Batch:
    """Requests of any task, length and parameters; all their begun steps must be finished when it is made."""

    def __init__(self, states: Sequence[DecodingState], model: Backbone) -> None:
        self.states = tuple(states)
        plans = [state.plan for state in states]
        lengths = [len(state.ids) for state in states]
        ends = list(accumulate(lengths))
        spans = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        self.device = plans[0].prompt.device
        self._ids = self._put(torch.cat([state.ids for state in states]))  # (C,)
        self._position = self._put(torch.cat([torch.arange(length) for length in lengths]))  # (C,)
        self._request = self._put(torch.arange(len(states)).repeat_interleave(torch.tensor(lengths)))  # (C,)
        self._mask = self._put(torch.tensor([plan.mask for plan in plans]))[self._request]  # (C,)
        self._allowed = self._put(_allowed(plans))  # (C, n, 2)
        self._seen: Tensor | None = None  # (G, V) bool, the ids of the answers so far
        # Written where indices say; `x[index] = True` would wait for the device: its True is copied there each time.
        self._true, self._false = (torch.full((), value, device=self.device) for value in (True, False))
        rows = [Row(plan.prompt, span) for plan, span in zip(plans, spans, strict=True)]
        self._guided = [plan.unconditional is not None for plan in plans]
        self._is_guided = self._put(torch.tensor(self._guided))  # (G,)
        self._is_drawn = any(_reveals_by_chance(plan) for plan in plans)
        rows += [
            _unconditional(plan, span)
            for plan, span in zip(plans, spans, strict=True)
            if plan.unconditional is not None
        ]
        self._pack = Pack(model, rows)
        has_slot = torch.tensor(self._guided).repeat_interleave(torch.tensor(lengths))
        self._unconditional_slot = self._put(ends[-1] - 1 + torch.cumsum(has_slot, 0))  # (C,)

    def schedule(self) -> OpenRows:
        """The next step of every state: which positions are open in it, and how many it commits."""
        steps = tuple(state.next_step() for state in self.states)
        of_request = self._put(
            torch.tensor([_integers(s.plan, step) for s, step in zip(self.states, steps, strict=True)])
        )
        reals = self._put(torch.tensor([_reals(s.plan, step) for s, step in zip(self.states, steps, strict=True)]))
        start, stop, num_masked, counts = of_request.T[-4:]
        is_masked = self._ids == self._mask
        inside = (self._position >= start[self._request]) & (self._position < stop[self._request])
        index = torch.nonzero_static(is_masked & inside, size=sum(step.num_open for step in steps)).flatten()
        request = self._request[index]
        masked_before = torch.cumsum(num_masked, 0) - num_masked  # in the requests to the left
        num_guided = sum(step.num_open for step, guided in zip(steps, self._guided, strict=True) if guided)
        return OpenRows(
            steps=steps,
            index=index,
            request=request,
            guided=torch.nonzero_static(self._is_guided[request], size=num_guided).flatten(),
            integers=of_request.T[:-4][:, request],
            reals=reals.T[:, request],
            num_masked=num_masked[request],
            rank=torch.cumsum(is_masked, 0)[index] - 1 - masked_before[request],
            counts=counts,
        )

    def run(self, rows: OpenRows) -> tuple[Tensor, Tensor | None]:
        """Logits of the open positions (R, V), and the unconditional ones of those with guidance (R_u, V)."""
        counts = [step.num_open for step in rows.steps]
        guided_counts = [n for n, guided in zip(counts, self._guided, strict=True) if guided]
        wanted = torch.cat([rows.index, self._unconditional_slot[rows.index[rows.guided]]])
        logits = self._pack.run(self._ids, wanted, counts + guided_counts)
        logits_c, logits_u = logits[: len(rows.index)], logits[len(rows.index) :]
        return logits_c, logits_u if any(self._guided) else None

    def row_params(self, rows: OpenRows, vocabulary: int) -> RowParams:
        """What the sampler goes by."""
        algorithm, top_k, seed, step, never = rows.integers
        temperature, top_p, repetition_penalty, position_penalty, guidance, *_ = rows.reals
        return RowParams(
            algorithm=algorithm,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            position_strength=position_strength(rows.rank, rows.num_masked, position_penalty),
            guidance=guidance,
            seed=seed,
            step=step,
            position=self._position[rows.index],
            allowed=self._allowed[rows.index],
            never=never,
            request=rows.request,
            seen=self._seen_ids(vocabulary),
        )

    def reveal_params(self, rows: OpenRows) -> RevealParams:
        """What reveal goes by."""
        *_, seed, step, _ = rows.integers
        *_, temperature, probability = rows.reals
        if self._is_drawn:
            draws = noise.uniform(seed, noise.REVEAL_STREAM, step, self._position[rows.index])
        else:  # nobody looks at them, and they take forty launches
            draws = torch.full_like(temperature, 0.5)
        return RevealParams(rows.request, rows.counts, temperature, draws, probability)

    def commit(self, rows: OpenRows, tokens: Tensor, confidence: Tensor, is_committed: Tensor) -> Commit:
        """Write the chosen tokens onto the canvases, count the steps as begun, send the tokens on their way."""
        self._ids[rows.index] = torch.where(is_committed, tokens, self._mask[rows.index])
        assert self._seen is not None  # row_params
        self._seen.index_put_((rows.request, torch.where(is_committed, tokens, 0)), self._true)
        self._exclude_unseen(self._seen)
        for state in self.states:
            state.begin()
        columns = (self._position[rows.index], tokens, confidence, is_committed)
        position, tokens, confidence, is_committed = (column.to("cpu", non_blocking=True) for column in columns)
        arrived = None
        if self.device.type == "cuda":
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        sizes = [step.num_open for step in rows.steps]
        return Commit(self.states, sizes, position, tokens, confidence, is_committed, arrived)

    def _seen_ids(self, vocabulary: int) -> Tensor:
        if self._seen is None:
            self._seen = torch.zeros(len(self.states), vocabulary, dtype=torch.bool, device=self.device)
            self._seen.index_put_((self._request, self._ids), self._true)
            self._exclude_unseen(self._seen)
        return self._seen

    def _exclude_unseen(self, seen: Tensor) -> None:
        """Id 0, as in the reference, and MASK never count as repeated."""
        seen[:, 0].fill_(False)
        seen.index_put_((self._request, self._mask), self._false)

    def _put(self, tensor: Tensor) -> Tensor:
        return send(tensor, self.device)


def _reveals_by_chance(plan: Plan) -> bool:
    return plan.settings.algorithm == "origin" or plan.settings.algorithm_temperature > 0


def _integers(plan: Plan, step: Step) -> tuple[int, ...]:
    settings = plan.settings
    never = ANY if settings.reference_compat else plan.mask
    of_rows = (ALGORITHMS.index(settings.algorithm), settings.top_k, settings.seed, step.number, never)
    return (*of_rows, step.start, step.stop, step.num_masked, step.count)


def _reals(plan: Plan, step: Step) -> tuple[float, ...]:
    settings = plan.settings
    # The first step has no answer to repeat, not even its pins (decoding.md, One step, 5).
    has_history = settings.algorithm == "entropy-penalty" and step.number > 0
    repetition_penalty = settings.repetition_penalty if has_history else 1.0
    filters = (settings.temperature, settings.top_p, repetition_penalty, settings.position_penalty, settings.guidance)
    return (*filters, settings.algorithm_temperature, step.probability)


def _unconditional(plan: Plan, canvas: slice) -> Row:
    """The sequence without the caller's content, aligned with the conditional one on the canvas.

    With `reference_compat` it is the reference's: padded with zero embeddings to the conditional row's length and read
    at the conditional row's index, which is another canvas position (decoding.md, Where the reference is wrong).
    """
    prompt = plan.unconditional
    assert prompt is not None  # Plan: there is one where there is guidance
    return Row(prompt, canvas, padding=len(plan.prompt) - len(prompt) if plan.settings.reference_compat else 0)


def _allowed(plans: Sequence[Plan]) -> Tensor:
    """(C, n, 2), filled up with empty ranges."""
    ranges = [at for plan in plans for at in plan.allowed]
    most = 1 << (max(map(len, ranges)) - 1).bit_length()  # few different ones: a kernel is compiled for each
    return torch.tensor([(*at, *([(0, 0)] * (most - len(at)))) for at in ranges])
