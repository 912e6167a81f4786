"""Requests come, go and fail at any step, and none of it changes another one's tokens."""

import gc
import random
import weakref
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from unmask_engine.batch import Commit
from unmask_engine.deadline import shortened
from unmask_engine.loop import Job, Loop, decode
from unmask_engine.models.backbone import Wanted
from unmask_engine.scheduler import Policy
from unmask_engine.settings import Settings
from unmask_engine.state import DecodingState, Plan, canvas_of, unconstrained
from unmask_engine.testing_fakes import MixingModel, script
from unmask_kernels.confidence import ALGORITHMS

VOCABULARY, MASK, END = 61, 60, 59


class Watched(MixingModel):
    """Notes the lengths of each forward pass; fails where it has more rows than `memory`, or for a poisoned prompt."""

    def __init__(self, memory: int = 10**9) -> None:
        super().__init__(VOCABULARY)
        self.memory = memory
        self.passes: list[list[int]] = []

    def forward_packed(self, embeds: Tensor, lengths: Sequence[int], wanted: Wanted) -> Tensor:
        self.passes.append([n for n, count in zip(lengths, wanted.counts, strict=True) if count])
        if len(embeds) > self.memory:
            raise torch.OutOfMemoryError("too much")
        if bool(embeds.isnan().any()):
            raise RuntimeError("poison")
        return super().forward_packed(embeds, lengths, wanted)


def plan_of(model: MixingModel, seed: int, length: int | None = None) -> Plan:
    pick = random.Random(seed)
    length = length or pick.choice([3, 8, 20, 40])
    guidance = pick.choice([0.0, 0.0, 1.5])
    canvas = canvas_of(length, MASK, {0: 5} if pick.random() < 0.5 else None)
    return Plan(
        Settings(
            steps=pick.randint(1, length),
            algorithm=pick.choice(ALGORITHMS),  # type: ignore[arg-type]
            block_size=pick.choice([None, 4]),
            temperature=pick.choice([0.0, 0.8]),
            top_k=pick.choice([0, 5]),
            top_p=pick.choice([0.9, 1.0]),
            repetition_penalty=1.2,
            guidance=guidance,
            seed=seed,
        ),
        model.embed(torch.tensor([pick.randrange(VOCABULARY) for _ in range(pick.randint(1, 30))])),
        model.embed(torch.tensor([1, 2])) if guidance else None,
        canvas,
        unconstrained(canvas, ((0, VOCABULARY),)),
        MASK,
        end=pick.choice([None, END]),
    )


def solo(model: MixingModel, plan: Plan) -> DecodingState:
    state = DecodingState(plan)
    decode([state], model)
    return state


def same(a: DecodingState, b: DecodingState) -> bool:
    return (
        torch.equal(a.ids, b.ids)
        and torch.equal(a.confidence.nan_to_num(), b.confidence.nan_to_num())
        and torch.equal(a.committed_in, b.committed_in)
        and a.step == b.step
    )


@pytest.fixture(params=[0, 1], ids=["host", "device"])
def depth(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Steps under way while the next one is launched: as on a CPU, and as on a GPU."""
    steps: int = request.param
    monkeypatch.setattr(Loop, "_depth", steps)
    return steps


@pytest.mark.parametrize("policy", [Policy(), Policy(token_budget=1), Policy(token_budget=90, knee=30, company=1.0)])
def test_arrival_and_budget_change_no_token(policy: Policy, depth: int) -> None:
    model, rng = MixingModel(VOCABULARY), random.Random(1)
    plans = [plan_of(model, seed) for seed in range(12)]
    alone = [solo(model, plan) for plan in plans]
    loop = Loop(model, policy)
    jobs = [Job(DecodingState(plan), interactive=rng.random() < 0.3) for plan in plans]
    coming = list(jobs)
    rng.shuffle(coming)
    while coming or len(loop):
        while coming and rng.random() < 0.4:
            loop.add(coming.pop())
        loop.step()
    assert all(same(job.state, state) for job, state in zip(jobs, alone, strict=True))


def test_a_cancelled_request_is_in_no_further_pass() -> None:
    model = Watched()
    plans = [plan_of(MixingModel(VOCABULARY), seed, length=20) for seed in (3, 4)]
    loop = Loop(model)
    jobs = [Job(DecodingState(plan)) for plan in plans]
    for job in jobs:
        loop.add(job)
    loop.step()
    assert len(model.passes[-1]) >= 2
    loop.remove(jobs[0])
    loop.step()
    assert model.passes[-1] == [n for n in model.passes[-1] if n != len(plans[0].prompt) + 20]
    assert len(loop) == 1


def test_out_of_memory_fails_only_what_cannot_fit() -> None:
    model = Watched(memory=120)
    plans = [plan_of(model, seed, length=20) for seed in range(20, 30)] + [plan_of(model, 40, length=200)]
    loop = Loop(model, Policy(knee=1000, company=1e9))
    jobs = [Job(DecodingState(plan)) for plan in plans]
    for job in jobs:
        loop.add(job)
    while len(loop):
        loop.step()
    assert [type(job.error) for job in jobs] == [type(None)] * 10 + [torch.OutOfMemoryError]
    healthy = MixingModel(VOCABULARY)
    assert all(same(job.state, solo(healthy, job.state.plan)) for job in jobs[:-1])
    assert sum(sum(lengths) > 120 for lengths in model.passes) < len(model.passes) / 3  # it learns what fits


def test_a_request_that_crashes_the_model_fails_alone() -> None:
    model = Watched()
    plans = [plan_of(model, seed, length=20) for seed in range(5)]
    plans[2].prompt.fill_(torch.nan)
    jobs = [Job(DecodingState(plan)) for plan in plans]
    loop = Loop(model, Policy(knee=1000))
    for job in jobs:
        loop.add(job)
    while len(loop):
        loop.step()
    assert [job.error is None for job in jobs] == [True, True, False, True, True]
    assert all(same(job.state, solo(model, job.state.plan)) for job in jobs if job.error is None)
    with pytest.raises(RuntimeError, match="poison"):
        decode([DecodingState(plan) for plan in plans], model)


def test_a_thousand_arrivals_and_cancels_leave_nothing_behind(depth: int) -> None:
    model, rng = MixingModel(VOCABULARY), random.Random(7)
    loop, alive = Loop(model, Policy(token_budget=400)), []
    jobs: list[Job] = []
    for seed in range(200 if depth else 1000):
        plan = plan_of(model, seed, length=rng.choice([2, 5, 9]))
        if rng.random() < 0.3:
            plan = shortened(plan, seconds=rng.random() * 0.01, step_s=0.001)
        job = Job(DecodingState(plan), interactive=rng.random() < 0.2)
        alive.append(weakref.ref(job.state))
        loop.add(job)
        jobs.append(job)
        if rng.random() < 0.3:
            loop.remove(jobs.pop(rng.randrange(len(jobs))))
        if rng.random() < 0.7:
            left = loop.step()
            jobs = [j for j in jobs if not any(j is other for other in left)]
    while len(loop):
        left = loop.step()
    del job, jobs, left, plan
    gc.collect()
    assert not any(ref() is not None for ref in alive)
    assert not loop._pending


def test_the_pace_is_that_of_the_device_not_of_the_launches(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launching takes no time here; a step takes a second, from when the one before it is done."""
    model, now = MixingModel(VOCABULARY), [100.0]
    finish = Commit.finish

    def wait(commit: Commit) -> None:
        now[0] += 1.0
        finish(commit)

    monkeypatch.setattr(Commit, "finish", wait)
    canvas = canvas_of(24, MASK)
    allowed = unconstrained(canvas, ((0, VOCABULARY),))
    plan = Plan(Settings(steps=24), model.embed(torch.tensor([1])), None, canvas, allowed, MASK, None)
    loop = Loop(model, clock=lambda: now[0])
    loop.add(Job(DecodingState(plan)))
    while len(loop):
        loop.step()
    assert loop.pace.predict(plan.tokens) == pytest.approx(1.0)


def test_what_ends_by_another_s_leaving_leaves_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step of one is under way when the other is seen to have ended, which brings that step home."""
    monkeypatch.setattr(Loop, "_depth", 1)
    model = script([3, END, 5, 5, 5, 5], VOCABULARY)
    canvas, prompt = canvas_of(6, MASK), model.embed(torch.tensor([1, 2]))
    allowed = unconstrained(canvas, ((0, VOCABULARY),))
    loop = Loop(model, Policy(knee=1000))
    for steps, end in ((6, END), (3, None)):
        loop.add(Job(DecodingState(Plan(Settings(steps=steps), prompt, None, canvas, allowed, MASK, end))))
    left = [len(loop.step()) for _ in range(3)]
    assert left == [0, 0, 2]
    assert len(loop) == 0


def test_a_step_is_reported_once_and_in_order(depth: int) -> None:
    model = MixingModel(VOCABULARY)
    plans = [plan_of(model, seed) for seed in range(6)]
    seen: dict[int, list[int]] = {i: [] for i in range(6)}
    states = [DecodingState(plan) for plan in plans]
    decode(states, model, lambda i, state: seen[i].append(state.step))
    assert all(seen[i] == list(range(1, state.step + 1)) for i, state in enumerate(states))


def test_a_deadline_shortens_the_schedule_and_the_canvas_is_complete() -> None:
    model = MixingModel(VOCABULARY)
    canvas = canvas_of(24, MASK)
    whole = Plan(
        Settings(steps=24), model.embed(torch.tensor([1])), None, canvas,
        unconstrained(canvas, ((0, VOCABULARY),)), MASK, None,
    )  # fmt: skip
    for seconds, steps in ((0.0, 1), (-1.0, 1), (0.05, 5), (9.0, 24)):
        state = solo(model, shortened(whole, seconds, step_s=0.01))
        assert state.step == steps
        assert not bool(state.masked.any())
