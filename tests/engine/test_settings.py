import math
from dataclasses import replace
from typing import Any

import pytest

from unmask_engine.omni_presets import OMNI_PRESETS
from unmask_engine.preset import StepsRule
from unmask_engine.request import Decoding, RequestError
from unmask_engine.settings import MAX_SEED, Settings, resolve_settings

PRESETS = {preset.task: preset for preset in OMNI_PRESETS}


def test_the_preset_speaks_where_the_caller_does_not() -> None:
    assert resolve_settings(PRESETS["s2i"], Decoding(), 260) == Settings(
        steps=260,
        algorithm="entropy-penalty",
        top_p=0.9,
        top_k=50,
        repetition_penalty=1.5,
        position_penalty=2.0,
        guidance=2.0,
    )


def test_the_caller_overrides_all_of_it() -> None:
    decoding = Decoding(
        steps=50,
        block_size=8,
        algorithm="entropy-penalty",
        temperature=0.5,
        top_p=1.0,
        top_k=0,
        algorithm_temperature=0.1,
        repetition_penalty=1.0,
        position_penalty=1.0,
        guidance=0.0,
        seed=7,
        reference_compat=True,
    )
    assert resolve_settings(PRESETS["s2i"], decoding, 260) == Settings(
        steps=50,
        algorithm="entropy-penalty",
        block_size=8,
        temperature=0.5,
        algorithm_temperature=0.1,
        seed=7,
        reference_compat=True,
    )


def test_steps_are_capped_at_the_canvas_and_may_be_a_number() -> None:
    assert resolve_settings(PRESETS["vqa"], Decoding(steps=100), 24).steps == 24
    assert resolve_settings(replace(PRESETS["vqa"], steps=StepsRule(number=16)), Decoding(), 64).steps == 16
    assert resolve_settings(PRESETS["asr"], Decoding(), 1).steps == 1


def test_a_seed_is_drawn_only_where_chance_has_a_part() -> None:
    assert resolve_settings(PRESETS["vqa"], Decoding(), 8).seed == 0
    seeds = {resolve_settings(PRESETS["vqa"], Decoding(temperature=1.0), 8).seed for _ in range(4)}
    assert len(seeds) == 4
    assert resolve_settings(PRESETS["vqa"], Decoding(temperature=1.0, seed=3), 8).seed == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("max_tokens", 0),
        ("block_size", 0),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", 1e-40),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("top_k", -1),
        ("algorithm_temperature", math.inf),
        ("algorithm_temperature", 1e-40),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-46),
        ("position_penalty", 0.5),
        ("guidance", -1.0),
        ("guidance", 1e-320),  # 0 in float32, where the logits are
        ("seed", -1),
        ("seed", MAX_SEED + 1),
    ],
)
def test_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"{name} must be") as caught:
        resolve_settings(PRESETS["t2i"], Decoding(**{name: value}), 260)
    assert caught.value.param == f"decoding.{name}"
    assert caught.value.code == f"{name}_out_of_range"


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(repetition_penalty=1.3),
        Decoding(algorithm="origin", algorithm_temperature=0.3),
        Decoding(algorithm="maskgit_plus", repetition_penalty=1.3),
    ],
)
def test_what_would_have_no_effect_is_refused(decoding: Decoding) -> None:
    with pytest.raises(RequestError) as caught:
        resolve_settings(PRESETS["vqa"], decoding, 64)
    assert caught.value.code == "parameter_without_effect"


def test_an_unknown_algorithm_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match="entropy-penalty") as caught:
        resolve_settings(PRESETS["vqa"], Decoding(algorithm="best"), 64)  # type: ignore[arg-type]
    assert caught.value.param == "decoding.algorithm"
