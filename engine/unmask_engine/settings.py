"""The decoding parameters of one request: the preset's, overridden by the caller's, each checked."""

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from unmask_engine.preset import Preset
from unmask_engine.request import Algorithm, Decoding, RequestError
from unmask_kernels.confidence import ALGORITHMS

MAX_SEED: Final = 2**63 - 1
SMALLEST: Final = 1e-6  # of what divides or scales logits: float32 makes infinities or 0 of much less
_T = TypeVar("_T")  # python 3.11 has no `def f[T]`


@dataclass(frozen=True)
class Settings:
    """Everything but prompt and canvas that determines the tokens. Defaults of one step a token, greedy, no filters."""

    steps: int
    algorithm: Algorithm = "entropy"
    block_size: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    algorithm_temperature: float = 0.0
    repetition_penalty: float = 1.0
    position_penalty: float = 1.0
    guidance: float = 0.0
    seed: int = 0
    reference_compat: bool = False


def resolve_settings(preset: Preset, decoding: Decoding, canvas: int) -> Settings:
    """Settings for a canvas of that many tokens; raises RequestError with the field's name in `param`."""
    _check_ranges(decoding)
    algorithm = decoding.algorithm if decoding.algorithm is not None else preset.algorithm
    penalises_repetition = algorithm == "entropy-penalty"
    if decoding.repetition_penalty not in (None, 1.0) and not penalises_repetition:
        raise RequestError(
            f"repetition_penalty acts with algorithm entropy-penalty only, not with {algorithm}; set that one",
            param="decoding.repetition_penalty",
            code="parameter_without_effect",
        )
    if algorithm == "origin" and decoding.algorithm_temperature:
        raise RequestError(
            "algorithm origin commits by chance and takes no algorithm_temperature; leave it out",
            param="decoding.algorithm_temperature",
            code="parameter_without_effect",
        )
    steps = _given(decoding.steps, preset.steps.steps(canvas))
    algorithm_temperature = _given(decoding.algorithm_temperature, preset.algorithm_temperature)
    is_random = decoding.temperature > 0 or algorithm_temperature > 0 or algorithm == "origin"
    return Settings(
        steps=min(steps, canvas),
        algorithm=algorithm,
        block_size=_given(decoding.block_size, preset.block_size),
        temperature=decoding.temperature,
        top_p=_given(decoding.top_p, preset.top_p),
        top_k=_given(decoding.top_k, preset.top_k),
        algorithm_temperature=algorithm_temperature,
        repetition_penalty=_given(decoding.repetition_penalty, preset.repetition_penalty)
        if penalises_repetition
        else 1.0,
        position_penalty=_given(decoding.position_penalty, preset.position_penalty),
        guidance=_given(decoding.guidance, preset.guidance),
        seed=_given(decoding.seed, secrets.randbelow(MAX_SEED) if is_random else 0),
        reference_compat=decoding.reference_compat,
    )


def _given(override: _T | None, default: _T) -> _T:
    return default if override is None else override


def _check_ranges(decoding: Decoding) -> None:
    if decoding.algorithm is not None and decoding.algorithm not in ALGORITHMS:
        allowed = ", ".join(ALGORITHMS)
        raise RequestError(
            f"unknown algorithm {decoding.algorithm!r}; there are: {allowed}",
            param="decoding.algorithm",
            code="algorithm_unknown",
        )
    for name, (is_allowed, range_) in _RANGES.items():
        value = getattr(decoding, name)
        if value is not None and not (math.isfinite(value) and is_allowed(value)):
            raise RequestError(
                f"{name} must be {range_}, not {value}", param=f"decoding.{name}", code=f"{name}_out_of_range"
            )


_RANGES: Final[dict[str, tuple[Callable[[float], bool], str]]] = {
    "steps": (lambda v: v >= 1, "at least 1"),
    "max_tokens": (lambda v: v >= 1, "at least 1"),
    "block_size": (lambda v: v >= 1, "at least 1"),
    "temperature": (lambda v: v == 0 or SMALLEST <= v <= 100, f"0, or between {SMALLEST} and 100"),
    "top_p": (lambda v: 0 <= v <= 1, "between 0 (the best token alone) and 1"),
    "top_k": (lambda v: v >= 0, "at least 1, or 0 for no limit"),
    "algorithm_temperature": (lambda v: v == 0 or SMALLEST <= v <= 100, f"0, or between {SMALLEST} and 100"),
    "repetition_penalty": (lambda v: SMALLEST <= v <= 100, f"between {SMALLEST} and 100"),
    "position_penalty": (lambda v: 1 <= v <= 100, "between 1 and 100"),
    "guidance": (lambda v: v == 0 or SMALLEST <= v <= 100, f"0, or between {SMALLEST} and 100"),
    "deadline_ms": (lambda v: v > 0, "above 0"),
    "seed": (lambda v: 0 <= v <= MAX_SEED, f"between 0 and {MAX_SEED}"),
}
