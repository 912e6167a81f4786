"""The step loop: requests join and leave at any step; those that the scheduler picks share a forward pass.

The loop belongs to one thread. On a GPU the next step is launched before the tokens of the last one are read.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from unmask_engine.batch import Batch, Commit
from unmask_engine.decode import decode_step
from unmask_engine.pace import Pace
from unmask_engine.runner import Backbone
from unmask_engine.scheduler import Load, Policy, choose
from unmask_engine.state import DecodingState, Plan

log = logging.getLogger("unmask")


@dataclass(eq=False)
class Job:
    """A request in the loop. It leaves when its state is done or `error` says why it cannot be."""

    state: DecodingState
    interactive: bool = False
    on_step: Callable[[DecodingState], None] | None = None  # after each step, on the loop's thread
    arrived: float = 0.0
    error: Exception | None = None


@dataclass(frozen=True)
class _UnderWay:
    """A step whose tokens have not been read yet."""

    commit: Commit
    tokens: int  # rows of its forward pass
    began: float  # when the host set about it


@dataclass
class Loop:
    model: Backbone
    policy: Policy = field(default_factory=Policy)
    clock: Callable[[], float] = time.monotonic
    pace: Pace = field(default_factory=Pace)
    num_steps: int = field(init=False, default=0)
    num_tokens: int = field(init=False, default=0)  # rows of all steps
    _jobs: list[Job] = field(init=False, default_factory=list)
    _batch: Batch | None = field(init=False, default=None)
    _pending: deque[_UnderWay] = field(init=False, default_factory=deque)
    _read: float = field(init=False, default=0.0)  # when tokens were last read
    _fitting: int = field(init=False)  # tokens that fit into memory, as far as is known

    def __post_init__(self) -> None:
        self._fitting = self.policy.token_budget

    def __len__(self) -> int:
        return len(self._jobs)

    def expected_step_s(self, plan: Plan) -> float:
        """Seconds of a step of one more request in the present company."""
        company = sum(job.state.plan.tokens for job in self._jobs)
        return self.pace.predict(min(plan.tokens + company, max(plan.tokens, self.policy.token_budget)))

    def add(self, job: Job) -> None:
        """Joins at the next step."""
        job.arrived = self.clock()
        self._jobs.append(job)

    def remove(self, job: Job) -> None:
        """Frees the request's rows from the next step on; a request that has left already may be removed."""
        self._jobs = [other for other in self._jobs if other is not job]
        if self._batch is not None and any(state is job.state for state in self._batch.states):
            self._settle()

    def step(self) -> list[Job]:
        """Run one step, if there is anything to do; the jobs that have left by it, done or failed."""
        chosen = self._chosen()
        if chosen:
            tokens = self._run([job.state for job in chosen])
            self.num_steps += tokens > 0
            self.num_tokens += tokens
            self._fitting = min(self.policy.token_budget, self._fitting + max(1, self._fitting // 16))
        while len(self._pending) > (self._depth if chosen else 0):
            self._deliver()
        left: list[Job] = []
        while done := [job for job in self._jobs if job.error is not None or job.state.is_done]:
            left += done
            for job in done:
                self.remove(job)  # may bring home the last tokens of another
        return left

    def _chosen(self) -> list[Job]:
        ready = [job for job in self._jobs if job.state.can_begin]
        now = self.clock()
        loads = [
            Load(job.state.plan.tokens, job.state.remaining_steps, now - job.arrived, job.interactive) for job in ready
        ]
        policy = replace(self.policy, token_budget=self._fitting)
        return [ready[i] for i in choose(loads, self.pace.seconds_per_token, policy)]

    def _run(self, states: Sequence[DecodingState]) -> int:
        """One step of the states; what fails together is tried in halves, what fails alone is given up.

        The rows of those that did not fail.
        """
        began = self.clock()
        try:
            if self._batch is None or set(map(id, self._batch.states)) != set(map(id, states)):
                self._settle()
                states = [state for state in states if state.can_begin]
                if not states:
                    return 0
                self._batch = Batch(states, self.model)
            tokens = sum(state.plan.tokens for state in states)
            self._pending.append(_UnderWay(decode_step(self._batch), tokens, began))
            return tokens
        except Exception as error:
            self._settle()
            if isinstance(error, torch.OutOfMemoryError):
                self._fitting = max(1, sum(state.plan.tokens for state in states) // 2)
                torch.cuda.empty_cache()
            if len(states) == 1:
                log.warning("a request failed in a step: %r", error)
                next(job for job in self._jobs if job.state is states[0]).error = error
                return 0
            middle = len(states) // 2
            return self._run(states[:middle]) + self._run(states[middle:])

    def _settle(self) -> None:
        """Bring every begun step home, so that the states know all there is, and take the batch apart."""
        while self._pending:
            self._deliver()
        self._batch = None

    def _deliver(self) -> None:
        under_way = self._pending.popleft()
        commit = under_way.commit
        done = {id(state) for state in commit.states if state.is_done}
        commit.finish()
        now = self.clock()
        # A device takes steps one after the other, whenever the host launched them.
        self.pace.observe(under_way.tokens, now - max(under_way.began, self._read))
        self._read = now
        by_state = {id(job.state): job for job in self._jobs}
        for state in commit.states:
            job = by_state.get(id(state))
            if job is not None and job.on_step is not None and id(state) not in done:
                job.on_step(state)

    @property
    def _depth(self) -> int:
        """Steps that may be under way while the next one is launched."""
        batch = self._batch
        return 1 if batch is not None and batch.device.type == "cuda" else 0


def decode(
    states: Sequence[DecodingState],
    model: Backbone,
    on_step: Callable[[int, DecodingState], None] | None = None,
    cancelled: Callable[[int], bool] | None = None,
    policy: Policy | None = None,
) -> None:
    """Decode requests to the end. One for which `cancelled(index)` is true stops before its next step.

    Raises what made a request fail, once the others are done.
    """
    loop = Loop(model, policy or Policy())
    jobs = [Job(state) for state in states]
    for index, job in enumerate(jobs):
        if on_step is not None:
            job.on_step = lambda state, index=index: on_step(index, state)
        if not job.state.is_done:
            loop.add(job)
    while len(loop):
        for index, job in enumerate(jobs):
            if cancelled is not None and cancelled(index):
                loop.remove(job)
        loop.step()
    for job in jobs:
        if job.error is not None:
            raise job.error
