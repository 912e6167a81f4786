"""Which requests share a step."""

import random

import pytest

from unmask_engine.pace import Pace
from unmask_engine.scheduler import Load, Policy, choose

SPT = 1e-4  # seconds a token
SHORT, LONG = Load(tokens=60, steps=10, waited_s=0), Load(tokens=300, steps=260, waited_s=0)


def test_nothing_to_do() -> None:
    assert choose([], SPT, Policy()) == []


def test_a_request_beyond_the_budget_runs_alone() -> None:
    assert choose([Load(9000, 5, 0)], SPT, Policy()) == [0]
    assert choose([Load(9000, 5, 99), SHORT], SPT, Policy()) == [0]


def test_equals_share_a_step_up_to_the_budget_first_come_first() -> None:
    loads = [Load(100, 30, 0)] * 16
    assert choose(loads, SPT, Policy(token_budget=1000)) == list(range(10))


def test_the_shortest_goes_first_and_takes_no_long_company() -> None:
    assert choose([LONG, LONG, SHORT], SPT, Policy()) == [2]
    assert choose([LONG, SHORT, SHORT], SPT, Policy()) == [1, 2]


def test_what_is_cheap_comes_along() -> None:
    small_but_long = Load(tokens=100, steps=200, waited_s=0)
    assert choose([small_but_long, SHORT], SPT, Policy(knee=256)) == [1, 0]


def test_who_waits_long_enough_is_served() -> None:
    waited = Load(LONG.tokens, LONG.steps, waited_s=16.0)  # its work takes 7.8 s
    assert choose([waited, SHORT], SPT, Policy())[0] == 0


def test_dialogue_goes_before_the_rest() -> None:
    talk = Load(200, 80, 0, interactive=True)
    assert choose([SHORT, talk], SPT, Policy(knee=0)) == [1]


def test_nothing_starves_while_short_ones_keep_coming() -> None:
    left, now, policy = 260, 0.0, Policy(knee=0)
    for _ in range(3000):
        chosen = choose([Load(300, left, now), SHORT], SPT, policy)
        left -= 0 in chosen
        now += 0.01
        if left == 0:
            break
    assert left == 0


def test_the_choice_fits_whatever_comes() -> None:
    rng = random.Random(0)
    for _ in range(300):
        loads = [
            Load(rng.randint(1, 3000), rng.randint(1, 300), rng.random() * 20, rng.random() < 0.2)
            for _ in range(rng.randint(1, 40))
        ]
        chosen = choose(loads, SPT, Policy())
        assert len(set(chosen)) == len(chosen) >= 1
        assert len(chosen) == 1 or sum(loads[i].tokens for i in chosen) <= Policy().token_budget


def test_the_pace_is_learnt() -> None:
    pace = Pace()
    for tokens in (100, 800, 300, 1500) * 10:
        pace.observe(tokens, 0.004 + 2e-5 * tokens)
    assert pace.predict(1000) == pytest.approx(0.024, rel=1e-3)
    assert pace.seconds_per_token == pytest.approx(2e-5, rel=1e-3)


def test_steps_of_one_size_scale_the_first_guess() -> None:
    pace = Pace()
    before = pace.predict(300)
    for _ in range(5):
        pace.observe(300, 2 * before)
    assert pace.predict(300) == pytest.approx(2 * before)
    assert pace.predict(600) > pace.predict(300)
