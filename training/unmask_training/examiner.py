"""Held-out samples of the small world and what a bundle makes of them: the tasks of `unmask eval`.

Pictures are judged by `scene_reader`, speech by the model's own ears and by pocketsphinx; no judge is the model that
drew. Samples come from seeds that training never uses; recordings are made on the spot by espeak-ng and flite.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from unmask_engine.bundle import Bundle
from unmask_engine.engine import Engine
from unmask_engine.preset import Preset
from unmask_engine.request import (
    AudioPart,
    Decoding,
    Generation,
    GenerationRequest,
    ImagePart,
    Modality,
    Part,
    TextPart,
)
from unmask_training.language import all_questions, as_typed, caption, questions, sentence
from unmask_training.listeners import content_words, sphinx_hears, word_error_rate
from unmask_training.render import render
from unmask_training.scene_reader import names_right, read_background, same_things
from unmask_training.voices import HELD_OUT_VOICES, Delivery, any_delivery, record
from unmask_training.world import Scene, describable_scene, free_scene

_BATCH = 8


class Examiner:
    """Holds the engine and makes held-out samples; every task starts its own random numbers from the seed."""

    def __init__(self, engine: Engine, bundle: Bundle, samples: int, seed: int) -> None:
        self.engine, self.bundle, self.samples, self.seed = engine, bundle, samples, seed

    def decoding_as(self, change: Callable[[Preset], Preset]) -> "Examiner":
        """The same examination of the same model with other presets."""
        loaded = replace(self.engine.bundle, presets=tuple(change(p) for p in self.engine.bundle.presets))
        return Examiner(Engine(loaded), self.bundle, self.samples, self.seed)

    def rng(self, task: str) -> random.Random:
        return random.Random(f"held out {self.seed} {task}")

    def answers(self, parts: list[tuple[Part, ...]], outputs: tuple[Modality, ...], task: str) -> list[Generation]:
        made: list[Generation] = []
        requests = [GenerationRequest(p, outputs, task, decoding=Decoding(seed=0)) for p in parts]
        for start in range(0, len(requests), _BATCH):
            made += self.engine.generate(requests[start : start + _BATCH])
        return made

    def ears(self, audio: Sequence[AudioPart]) -> list[str]:
        return [g.text or "" for g in self.answers([(a,) for a in audio], ("text",), "asr")]

    def scenes(self, task: str, single: bool | None) -> list[Scene]:
        rng = self.rng(task)
        found: list[Scene] = []
        while len(found) < self.samples:
            scene = describable_scene(rng)
            if single is None or (len(scene.things) == 1) == single:
                found.append(scene)
        return found

    def t2i(self) -> dict[str, float]:
        rng = self.rng("t2i captions")
        scenes = self.scenes("t2i", single=True)
        made = self.answers([(TextPart(as_typed(caption(s, rng), rng)),) for s in scenes], ("image",), "t2i")
        return {
            "t2i shape+colour": judged(names_right, scenes, made),
            "t2i shape+colour+place": judged(same_things, scenes, made),
            "t2i background": judged(lambda s, p: read_background(p) == s.background, scenes, made),
        }

    def t2i_many(self) -> dict[str, float]:
        rng = self.rng("t2i_many captions")
        scenes = self.scenes("t2i_many", single=False)
        made = self.answers([(TextPart(as_typed(caption(s, rng), rng)),) for s in scenes], ("image",), "t2i")
        return {"t2i 2-3 objects, all right": judged(same_things, scenes, made)}

    def vqa(self) -> dict[str, float]:
        rng = self.rng("vqa")
        asked = []
        for _ in range(self.samples):
            scene = free_scene(rng)
            _, question, answer = rng.choice([q for q in questions(scene, rng) if q[0] != "describe"])
            asked.append(((TextPart(as_typed(question, rng)), image_of(scene, rng)), answer))
        made = self.answers([a[0] for a in asked], ("text",), "vqa")
        return {"image question": mean([g.text == a[1] for g, a in zip(made, asked, strict=True)])}

    def caption(self) -> dict[str, float]:
        rng = self.rng("caption")
        scenes = [free_scene(rng) for _ in range(self.samples)]
        made = self.answers([(image_of(s, rng),) for s in scenes], ("text",), "caption")
        named = [_names(g.text or "") == sorted(t.name for t in s.things) for g, s in zip(made, scenes, strict=True)]
        return {"caption names all": mean(named)}

    def _asr(self, task: str, unseen: bool) -> float:
        rng = self.rng(task)
        said = [sentence(rng, describable_scene(rng)) for _ in range(self.samples)]
        heard = self.ears([speech_of(text, rng, unseen) for text in said])
        return word_error_rate(list(zip(said, heard, strict=True)))

    def asr(self) -> dict[str, float]:
        return {"speech -> text WER": self._asr("asr", False)}

    def asr_unseen_voice(self) -> dict[str, float]:
        return {"speech -> text WER, unseen voice": self._asr("asr_unseen_voice", True)}

    def tts(self) -> dict[str, float]:
        rng = self.rng("tts")
        lexicon = content_words()
        said = [" ".join(rng.choice(lexicon) for _ in range(rng.randint(3, 6))) for _ in range(self.samples)]
        audio = [audio_of(g) for g in self.answers([(TextPart(t),) for t in said], ("audio",), "tts")]
        own = word_error_rate(list(zip(said, self.ears(audio), strict=True)))
        other = word_error_rate([(t, sphinx_hears(a.samples, a.sample_rate)) for t, a in zip(said, audio, strict=True)])
        voice = [record(t, Delivery("rms"), 22_050) for t in said]
        source = word_error_rate([(t, sphinx_hears(v, 22_050)) for t, v in zip(said, voice, strict=True)])
        return {"text -> speech WER, own ears": own, "text -> speech WER, pocketsphinx": other,
                "(the source voice itself, pocketsphinx WER)": source}  # fmt: skip

    def s2i(self) -> dict[str, float]:
        rng = self.rng("s2i")
        scenes = self.scenes("s2i", single=True)
        made = self.answers([(speech_of(caption(s, rng), rng),) for s in scenes], ("image",), "s2i")
        return {"speech -> image shape+colour": judged(names_right, scenes, made)}

    def svqa(self) -> dict[str, float]:
        rng = self.rng("svqa")
        recorded = set(all_questions())
        asked: list[tuple[tuple[Part, ...], str]] = []
        while len(asked) < self.samples:
            scene = free_scene(rng)
            _, question, answer = rng.choice([q for q in questions(scene, rng) if q[0] != "describe"])
            if question in recorded:
                asked.append(((speech_of(question, rng), image_of(scene, rng)), answer))
        made = self.answers([a[0] for a in asked], ("text", "audio"), "svqa")
        right = mean([g.text == a[1] for g, a in zip(made, asked, strict=True)])
        heard = self.ears([audio_of(g) for g in made])
        agree = 1 - word_error_rate([(g.text or "", h) for g, h in zip(made, heard, strict=True)])
        return {"spoken question + image -> text": right, "its speech says its text (1 - WER, own ears)": agree}


def mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def judged(judge: Callable[[Scene, np.ndarray], bool], scenes: list[Scene], made: list[Generation]) -> float:
    return mean([g.image is not None and judge(s, g.image.pixels) for s, g in zip(scenes, made, strict=True)])


def _names(text: str) -> list[str]:
    found = text.replace(" an ", " a ").removeprefix("an ").removeprefix("a ").replace(" and a ", " a ").split(" a ")
    return sorted(found)


def image_of(scene: Scene, rng: random.Random) -> ImagePart:
    return ImagePart(render(scene, 128, rng))


def audio_of(generation: Generation) -> AudioPart:
    assert generation.audio is not None
    samples = generation.audio.samples
    # Speech without a single code is silence to a listener, not a fault of the judge.
    return AudioPart(samples if len(samples) > 4000 else np.zeros(8000, np.float32), generation.audio.sample_rate)


def speech_of(text: str, rng: random.Random, unseen: bool = False) -> AudioPart:
    how = any_delivery(rng)
    if unseen:
        how = Delivery(rng.choice(HELD_OUT_VOICES), how.speed, how.pitch)
    return AudioPart(record(text, how, 16_000), 16_000)
