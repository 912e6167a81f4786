"""How quality depends on the decoding: fewer steps, and one decoding technique at a time switched on and off.

Everything here is a change of the bundle's presets, `Preset -> Preset`; model, samples and seed stay the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from unmask_engine.preset import CanvasRule, Preset, StepsRule
from unmask_training.examiner import Examiner
from unmask_training.tasks import Score, scores

Change = Callable[[Preset], Preset]
FRACTIONS = (1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16)  # steps a token of the canvas
FIXED_CANVAS = 128  # tokens, where the length does not adapt


@dataclass(frozen=True)
class Result:
    """A score under one setting of one technique."""

    technique: str
    setting: str
    score: Score


def _steps(fraction: float) -> Change:
    return lambda preset: replace(preset, steps=StepsRule(fraction=fraction))


def _position(penalty: float) -> Change:
    return lambda preset: replace(preset, position_penalty=penalty)


def _repetition(penalty: float) -> Change:
    return lambda preset: replace(preset, algorithm="entropy-penalty", repetition_penalty=penalty)


def _guidance(scale: float) -> Change:
    return lambda preset: replace(preset, guidance=scale)


def _spoken_at(fraction: float | None) -> Change:
    """With the begin of the speech given beforehand at that share of the canvas, or not given."""

    def change(preset: Preset) -> Preset:
        if fraction is None:
            return replace(preset, pins=tuple(pin for pin in preset.pins if pin.at_fraction is None))
        moved = (pin if pin.at_fraction is None else replace(pin, at_fraction=fraction) for pin in preset.pins)
        return replace(preset, pins=tuple(moved))

    return change


def _fixed(preset: Preset) -> Preset:
    return preset if preset.canvas.tokens else replace(preset, canvas=CanvasRule(tokens=FIXED_CANVAS))


def halved(preset: Preset) -> Preset:
    """With exactly half of its steps, rounded down, one at least."""
    steps = preset.steps
    number = None if steps.number is None else max(1, steps.number // 2)
    return replace(preset, steps=StepsRule(steps.fraction / 2, number))


def _as_it_is(preset: Preset) -> Preset:
    return preset


DIFFERENCE = "difference in points"
HALF: Mapping[str, Change] = {"the preset's": _as_it_is, "half": halved}
STEPS: Mapping[str, Change] = {("N" if f == 1 else f"N/{round(1 / f)}"): _steps(f) for f in FRACTIONS}
ABLATIONS: Mapping[str, Mapping[str, Change]] = {
    # It acts while more than 100 positions are masked (decoding.md), so on no canvas of the built-in model's pictures.
    "position penalty": {"off": _position(1.0), "2.0": _position(2.0)},
    "repetition penalty": {"off": _repetition(1.0), "1.2": _repetition(1.2)},
    "guidance": {"0": _guidance(0.0), "1": _guidance(1.0), "2": _guidance(2.0), "3": _guidance(3.0)},
    # Trained at 0.2; the text of an answer must fit before it.
    "pre-infill": {"off": _spoken_at(None), **{str(f): _spoken_at(f) for f in (0.1, 0.2, 0.3, 0.4)}},
    "adaptive length": {"on": _as_it_is, f"off ({FIXED_CANVAS} tokens)": _fixed},
}
# What each technique is for; another task would be measured without meaning.
ABLATED_TASKS: Mapping[str, Sequence[str]] = {
    "position penalty": ("t2i", "t2i_many", "s2i", "tts"),
    "repetition penalty": ("t2i", "s2i", "tts", "svqa"),
    "guidance": ("t2i", "t2i_many", "s2i"),
    "pre-infill": ("svqa", "sqa"),
    "adaptive length": ("tts", "asr"),
}


def curves(examiner: Examiner, tasks: Sequence[str]) -> list[Result]:
    """Every score of the tasks for N, N/2, ... steps on a canvas of N."""
    return _measured(examiner, "steps", STEPS, tasks)


def half(examiner: Examiner, tasks: Sequence[str]) -> list[Result]:
    """Every score of the tasks at the presets' steps, at half of them, and what that costs."""
    found = _measured(examiner, "steps", HALF, tasks)
    full, fewer = ([r.score for r in found if r.setting == setting] for setting in HALF)
    for a, b in zip(full, fewer, strict=True):
        found.append(Result("steps", DIFFERENCE, replace(b, value=b.value - a.value)))
    return found


def ablations(examiner: Examiner, tasks: Sequence[str]) -> list[Result]:
    found = []
    for technique, settings in ABLATIONS.items():
        meant = [task for task in tasks if task in ABLATED_TASKS[technique]]
        found += _measured(examiner, technique, settings, meant)
    return found


def _measured(examiner: Examiner, technique: str, settings: Mapping[str, Change], tasks: Sequence[str]) -> list[Result]:
    found = []
    for setting, change in settings.items():
        found += [Result(technique, setting, score) for score in scores(examiner.decoding_as(change), tasks)]
    return found
