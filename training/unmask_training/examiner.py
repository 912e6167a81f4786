"""Holds a bundle's engine and makes held-out samples of the small world for it: what the tasks of `unmask eval` share.

No judge is the model that drew or spoke, but its ears are one of two that listen. Samples come from seeds that
training never uses, and what training was shown is left out (seen.py).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np

from unmask_engine.bundle import Bundle
from unmask_engine.engine import Engine
from unmask_engine.media import resample
from unmask_engine.preset import Preset
from unmask_engine.request import (
    AudioPart,
    Decoding,
    Generation,
    GenerationRequest,
    ImagePart,
    Modality,
    Part,
)
from unmask_training.listeners import word_error_rate
from unmask_training.render import render
from unmask_training.seen import Seen, seen_by
from unmask_training.train_ears import first_rows
from unmask_training.voices import HELD_OUT_VOICES, Delivery, any_delivery, record_all
from unmask_training.world import Scene, describable_scene

_BATCH = 8
_TRIES = 2000  # a sample: then training has seen all there is
T = TypeVar("T")


class NothingNewError(ValueError):
    """Training has seen every sample of a kind."""


class Measure(NamedTuple):
    """A score and of how many samples it is."""

    value: float
    samples: int


Measures = Mapping[str, Measure]


class Examiner:
    """Every task starts its own random numbers from the seed."""

    def __init__(
        self, engine: Engine, bundle: Bundle, samples: int, seed: int,
        spoken_samples: int | None = None, seen: Seen | None = None,
    ) -> None:  # fmt: skip
        """`spoken_samples` is of tasks whose answer is speech, the slow ones; `seen` is told by the bundle if None."""
        self.engine, self.bundle, self.samples, self.seed = engine, bundle, samples, seed
        self.spoken_samples = min(samples, spoken_samples or samples)
        self._seen = seen

    @property
    def seen(self) -> Seen:
        return seen_by(self.bundle.path) if self._seen is None else self._seen

    def decoding_as(self, change: Callable[[Preset], Preset]) -> "Examiner":
        """The same examination of the same model with other presets."""
        loaded = replace(self.engine.bundle, presets=tuple(change(p) for p in self.engine.bundle.presets))
        return Examiner(Engine(loaded), self.bundle, self.samples, self.seed, self.spoken_samples, self._seen)

    def rng(self, task: str) -> random.Random:
        return random.Random(f"held out {self.seed} {task}")

    def answers(self, parts: Sequence[tuple[Part, ...]], outputs: tuple[Modality, ...], task: str) -> list[Generation]:
        made: list[Generation] = []
        requests = [GenerationRequest(p, outputs, task, decoding=Decoding(seed=0)) for p in parts]
        for start in range(0, len(requests), _BATCH):
            made += self.engine.generate(requests[start : start + _BATCH])
        return made

    def ears(self, audio: Sequence[AudioPart]) -> list[str]:
        return [g.text or "" for g in self.answers([(a,) for a in audio], ("text",), "asr")]

    def ears_alone(self, audio: Sequence[AudioPart]) -> list[str]:
        """What the CTC head of the ears makes of it, without the backbone; nothing where the bundle has none."""
        clock = self.engine.bundle.word_clock
        if clock is None:
            return []
        paths = [clock.hear(resample(a, clock.rate).samples).argmax(-1) for a in audio]
        return [self.engine.bundle.tokenizer.decode((path[first_rows(path)] - 1).tolist()) for path in paths]

    def scenes(self, task: str, single: bool, count: int | None = None) -> list[Scene]:
        """So many describable scenes, or `samples`, that training was not shown: with one thing, or with several."""
        rng = self.rng(task)

        def is_new(scene: Scene) -> bool:
            return (len(scene.things) == 1) == single and not self.seen.has_drawn(scene)

        return held_out(lambda: describable_scene(rng), is_new, self.samples if count is None else count)


def held_out(make: Callable[[], T], is_new: Callable[[T], bool], count: int) -> list[T]:
    """So many of what `make` makes that are new."""
    found: list[T] = []
    for _ in range(_TRIES * count):
        made = make()
        if is_new(made):
            found.append(made)
            if len(found) == count:
                return found
    raise NothingNewError("training has seen all samples of a kind; examine with a smaller --samples or another task")


def share(right: Sequence[bool]) -> Measure:
    """How many of the samples are right."""
    return Measure(sum(right) / len(right), len(right))


def error_rate(pairs: Sequence[tuple[str, str]]) -> Measure:
    """Word error rate of (truth, heard)."""
    return Measure(word_error_rate(pairs), len(pairs))


def heard_rates(examiner: Examiner, name: str, said: Sequence[str], audio: Sequence[AudioPart]) -> Measures:
    """Word error rates of recognition: the model's, and that of its ears alone, which tells whose the errors are."""
    found = {name: error_rate(list(zip(said, examiner.ears(audio), strict=True)))}
    if alone := examiner.ears_alone(audio):
        found[f"({name}, CTC alone)"] = error_rate(list(zip(said, alone, strict=True)))
    return found


def says_its_text(examiner: Examiner, made: Sequence[Generation]) -> Measure:
    """1 - the word error rate between the text and the speech of answers, by the model's own ears."""
    heard = examiner.ears([audio_of(g) for g in made])
    rate = error_rate([(g.text or "", h) for g, h in zip(made, heard, strict=True)])
    return Measure(1 - rate.value, rate.samples)


def image_of(scene: Scene, rng: random.Random) -> ImagePart:
    return ImagePart(render(scene, 128, rng))


def audio_of(generation: Generation) -> AudioPart:
    assert generation.audio is not None
    samples = generation.audio.samples
    # Speech without a single code is silence to a listener, not a fault of the judge.
    return AudioPart(samples if len(samples) > 4000 else np.zeros(8000, np.float32), generation.audio.sample_rate)


def speech_of(texts: Sequence[str], rng: random.Random, unseen: bool = False) -> list[AudioPart]:
    """Each text in a listening voice, or in one that training never heard; made side by side."""
    how = [any_delivery(rng) for _ in texts]
    if unseen:
        how = [Delivery(rng.choice(HELD_OUT_VOICES), h.speed, h.pitch) for h in how]
    waves = record_all(list(texts), how, 16_000)
    return [AudioPart(wave.astype(np.float32) / np.float32(32767), 16_000) for wave in waves]
