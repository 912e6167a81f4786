"""What holds for every request, whatever the model says."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unmask_engine.loop import decode
from unmask_engine.models.backbone import BackboneConfig
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoderConfig
from unmask_engine.request import Algorithm
from unmask_engine.runner import Backbone
from unmask_engine.settings import Settings
from unmask_engine.state import DecodingState, IdRanges, Plan, canvas_of, unconstrained
from unmask_engine.testing_fakes import KnownLogits, MixingModel, script
from unmask_kernels.confidence import ALGORITHMS

VOCABULARY, MASK, END = 61, 60, 59
EVERYTHING: IdRanges = ((0, VOCABULARY),)


@pytest.fixture(scope="module")
def omni() -> OmniModel:
    torch.manual_seed(0)
    speech = SpeechEncoderConfig(size=16, num_heads=2, ffn_size=16, num_layers=2, num_tp_layers=1, ctc_vocab=4)
    model = OmniModel(BackboneConfig(VOCABULARY, 32, 48, 2, 4, 2), speech).eval().requires_grad_(False)
    model.lm_head.weight *= 12
    return model


def random_plan(model: Backbone, seed: int) -> Plan:
    """A request of random length, pins, blocks, constraint and parameters."""
    pick = random.Random(seed)
    length = pick.choice([1, 2, 7, 24, 130])
    algorithm: Algorithm = pick.choice(ALGORITHMS)  # type: ignore[arg-type]
    guidance = pick.choice([0.0, 0.0, 1.5])
    pins = {position: pick.randrange(VOCABULARY - 1) for position in pick.sample(range(length), length // 4)}
    prompt = torch.tensor([pick.randrange(VOCABULARY) for _ in range(pick.randint(1, 30))])
    empty = torch.tensor([pick.randrange(VOCABULARY) for _ in range(pick.randint(1, 30))])
    canvas = canvas_of(length, MASK, pins)
    span: IdRanges = pick.choice([EVERYTHING, ((5, 20), (40, 41))])
    return Plan(
        settings=Settings(
            steps=pick.randint(1, length),
            algorithm=algorithm,
            block_size=pick.choice([None, 1, 5, 8, 500]),
            temperature=pick.choice([0.0, 0.0, 1.0]),
            top_p=pick.choice([0.9, 1.0]),
            top_k=pick.choice([0, 3, 50]),
            algorithm_temperature=pick.choice([0.0, 0.0, 0.5]),
            repetition_penalty=1.2,
            position_penalty=2.0,
            guidance=guidance,
            seed=pick.randrange(2**62),
        ),
        prompt=model.embed(prompt),
        unconditional=model.embed(empty) if guidance else None,
        canvas=canvas,
        allowed=unconstrained(canvas, span),
        mask=MASK,
        end=pick.choice([None, END]),
    )


def trace(model: Backbone, plans: list[Plan]) -> list[list[Tensor]]:
    """The canvas of each request after each of its steps, decoded as one batch."""
    states = [DecodingState(plan) for plan in plans]
    histories: list[list[Tensor]] = [[] for _ in plans]
    decode(states, model, lambda index, state: histories[index].append(state.ids.clone()))
    return histories


def check_batch(model: Backbone, seeds: list[int]) -> None:
    plans = [random_plan(model, seed) for seed in seeds]
    together = trace(model, plans)
    for plan, history in zip(plans, together, strict=True):
        (alone,) = trace(model, [plan])
        assert len(alone) == len(history)
        assert all(torch.equal(a, b) for a, b in zip(alone, history, strict=True))


@settings(deadline=None, max_examples=15)
@given(seeds=st.lists(st.integers(0, 2**31), min_size=2, max_size=5))
def test_a_request_in_a_mixed_batch_takes_every_step_as_if_alone(seeds: list[int]) -> None:
    check_batch(MixingModel(VOCABULARY), seeds)


def test_the_same_with_a_real_backbone(omni: OmniModel) -> None:
    check_batch(omni, list(range(100, 108)))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31))
def test_pins_stay_commits_stay_and_the_canvas_is_complete(seed: int) -> None:
    model = MixingModel(VOCABULARY)
    plan = random_plan(model, seed)
    (history,) = trace(model, [plan])
    before = plan.canvas
    for after in history:
        final = before != MASK
        assert torch.equal(after[final], before[final])
        if plan.settings.algorithm != "origin":  # which may happen to commit nothing in a step
            assert int((after != MASK).sum()) > int(final.sum())
        before = after
    assert len(history) <= plan.steps
    ends = (before == END).nonzero().flatten()
    stop = int(ends[0]) if plan.end is not None and len(ends) else len(before)
    assert not bool((before[:stop] == MASK).any())
    if not (plan.end is not None and len(ends)) and plan.settings.algorithm != "origin":
        assert len(history) == plan.steps
    free = (plan.canvas == MASK) & (before != MASK)
    ranges = plan.allowed[0]
    assert all(any(start <= token < stop for start, stop in ranges) for token in before[free].tolist())


def greedy(table: Tensor, settings: Settings, pins: dict[int, int] | None = None, end: int | None = None) -> Plan:
    canvas = canvas_of(len(table), MASK, pins)
    return Plan(settings, torch.zeros(3, 1), None, canvas, unconstrained(canvas, EVERYTHING), MASK, end)


def test_equal_confidence_fills_the_canvas_from_the_left() -> None:
    table = torch.zeros(10, VOCABULARY)
    table[:, 7] = 9.0
    history = trace(KnownLogits(table), [greedy(table, Settings(steps=10))])[0]
    assert [(ids == MASK).tolist() for ids in history] == [[False] * i + [True] * (10 - i) for i in range(1, 11)]


def test_an_empty_prompt_predicts_the_first_position_from_itself() -> None:
    table = torch.zeros(4, VOCABULARY)
    canvas = canvas_of(4, MASK)
    plan = Plan(Settings(steps=1), torch.zeros(0, 1), None, canvas, unconstrained(canvas, EVERYTHING), MASK, None)
    assert trace(KnownLogits(table), [plan])[0][-1].tolist() == [0, 0, 0, 0]


def test_an_answer_ends_early_and_its_part_before_the_end_is_the_same() -> None:
    answer = [3, 1, 4, END, 1, 5, 9, 2]
    model = script(answer, VOCABULARY)
    full = trace(model, [greedy(torch.zeros(8, VOCABULARY), Settings(steps=8))])[0]
    early = trace(model, [greedy(torch.zeros(8, VOCABULARY), Settings(steps=8), end=END)])[0]
    assert full[-1].tolist() == answer
    assert len(early) == 4
    assert early[-1].tolist() == [3, 1, 4, END] + [MASK] * 4


def test_an_end_mark_with_open_positions_before_it_does_not_end() -> None:
    model = script([3, 1, 4, 1, 5, 9], VOCABULARY)
    history = trace(model, [greedy(torch.zeros(6, VOCABULARY), Settings(steps=6), pins={2: END}, end=END)])[0]
    assert [len(h[h != MASK]) for h in history] == [2, 3]
    assert history[-1].tolist() == [3, 1, END, MASK, MASK, MASK]


def test_guidance_runs_two_forwards_a_step_and_others_one() -> None:
    table = torch.randn(6, VOCABULARY, generator=torch.Generator().manual_seed(0))
    model = KnownLogits(table)
    plain = greedy(table, Settings(steps=3))
    canvas = canvas_of(6, MASK)
    allowed = unconstrained(canvas, EVERYTHING)
    guided = Plan(
        Settings(steps=3, guidance=2.0), torch.zeros(5, 1), torch.zeros(2, 1), canvas, allowed, MASK, end=None
    )
    histories = trace(model, [plain, guided])
    assert model.num_forwards == 9
    # Both rows predict a canvas position from the same table row, so guidance changes nothing: they are aligned.
    assert torch.equal(histories[0][-1], histories[1][-1])


def test_a_cancelled_request_stops_and_the_others_go_on() -> None:
    model = MixingModel(VOCABULARY)
    prompt = model.embed(torch.tensor([1, 2]))
    canvas = canvas_of(8, MASK)
    plan = Plan(Settings(steps=8), prompt, None, canvas, unconstrained(canvas, EVERYTHING), MASK, end=None)
    states = [DecodingState(plan), DecodingState(plan)]
    decode(states, model, cancelled=lambda index: index == 0 and states[0].step == 3)
    assert [state.step for state in states] == [3, 8]
    assert [state.is_done for state in states] == [False, True]


def test_a_plan_that_contradicts_itself_is_refused() -> None:
    canvas = canvas_of(4, MASK)
    with pytest.raises(ValueError, match="ranges for 1"):
        Plan(Settings(steps=1), torch.zeros(1, 1), None, canvas, (EVERYTHING,), MASK, None)
    allowed = unconstrained(canvas, EVERYTHING)
    with pytest.raises(ValueError, match="unconditional"):
        Plan(Settings(steps=1, guidance=1.0), torch.zeros(1, 1), None, canvas, allowed, MASK, None)
