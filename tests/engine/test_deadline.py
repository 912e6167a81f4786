"""A deadline makes steps fewer: as many as fit, with the time that has passed and the pace of this machine."""

from dataclasses import replace

import pytest
import torch

from unmask_engine.deadline import shortened
from unmask_engine.engine import Engine
from unmask_engine.request import Decoding, GenerationRequest, TextPart
from unmask_engine.settings import Settings
from unmask_engine.state import Plan, canvas_of, unconstrained
from unmask_engine.testing_fakes import ByteTokenizer, fake_bundle, script

VOCABULARY = ByteTokenizer().vocabulary
CANVAS, PROMPT = canvas_of(24, 60), torch.zeros(3, 8)
WHOLE = Plan(Settings(steps=24), PROMPT, None, CANVAS, unconstrained(CANVAS, ((0, 61),)), 60, None)


@pytest.mark.parametrize(
    ("seconds", "step_s", "steps"),
    [(0.05, 0.01, 5), (9.0, 0.01, 24), (-1.0, 0.01, 1), (1e305, 1e-9, 24), (-1e305, 1e-9, 1), (1.0, 0.0, 24)],
)
def test_any_number_of_seconds_makes_a_plan(seconds: float, step_s: float, steps: int) -> None:
    assert shortened(WHOLE, seconds, step_s).steps == steps


@pytest.mark.parametrize("block_size", [1, 3, 4, 7, 24, 100])
@pytest.mark.parametrize("fits", [1, 2, 3, 5, 8, 13, 23])
def test_blocks_take_no_more_steps_than_fit(block_size: int, fits: int) -> None:
    whole = replace(WHOLE, settings=replace(WHOLE.settings, block_size=block_size))
    short = shortened(whole, fits * 0.01 + 0.001, step_s=0.01)
    assert short.steps <= fits
    assert short.block_size >= whole.block_size
    if len(whole.block_steps) <= fits and whole.block_size * fits >= 24:
        assert short.block_size == whole.block_size  # which fitted


@pytest.fixture
def engine() -> Engine:
    """Steps take a second each, as far as it knows."""
    engine = Engine(fake_bundle(script([VOCABULARY.special["pad"]] * 64, VOCABULARY.size)))
    for _ in range(1000):
        engine._loop.pace.observe(100, 1.0)
        engine._loop.pace.observe(200, 1.0)
    return engine


def asked(deadline_ms: float | None, **more: int) -> GenerationRequest:
    return GenerationRequest((TextPart("hello"),), ("audio",), decoding=Decoding(deadline_ms=deadline_ms, **more))


def test_the_engine_plans_by_pace_wait_and_media(engine: Engine) -> None:
    usual = engine.prepare(asked(None))
    step_s = engine._loop.expected_step_s(usual.plan)
    assert usual.plan.steps > 12
    left_ms = 1e3 * 10.5 * step_s + 200  # encoding takes less
    assert engine.prepare(asked(left_ms)).plan.steps == 10
    assert engine.prepare(asked(left_ms), waited_ms=5e3 * step_s).plan.steps == 5
    assert engine.prepare(asked(left_ms), waited_ms=1e9).plan.steps == 1
    engine._media_s[usual.preset.task] = 3 * step_s
    assert engine.prepare(asked(left_ms)).plan.steps == 7
    assert engine.prepare(asked(left_ms, block_size=2)).plan.steps <= 7
    assert engine.prepare(asked(1e308)).plan.steps == usual.plan.steps


def test_the_answer_says_how_many_steps_there_were(engine: Engine) -> None:
    step_s = engine._loop.expected_step_s(engine.prepare(asked(None)).plan)
    (made,) = engine.generate([asked(1e3 * 4.5 * step_s + 200)])
    assert made.usage.steps == made.usage.forward_passes <= 4


def test_company_makes_steps_longer(engine: Engine) -> None:
    pace = engine._loop.pace
    for _ in range(1000):
        pace.observe(100, 1.0)
        pace.observe(1000, 10.0)
    usual = engine.prepare(asked(None))
    deadline_ms = 1e3 * 12.5 * engine._loop.expected_step_s(usual.plan) + 200
    assert engine.prepare(asked(deadline_ms)).plan.steps == 12
    engine.submit(usual)
    assert engine.prepare(asked(deadline_ms)).plan.steps == 6
