"""Everything the backbone learns from, tokenised once: pictures as codes, recordings as speech rows, words as codes."""

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TypeVar

import numpy as np
import torch

from unmask_engine.codecs.image_pixels import prepare
from unmask_engine.codecs.image_tokenizer import ImageTokenizer
from unmask_engine.codecs.speech_tokenizer import SpeechTokenizer
from unmask_training.corpus import SLOT_TOKENS, SPEAKING_RATE, Said, word_recordings
from unmask_training.devices import device_of, full_precision
from unmask_training.language import SMALL_TALK, as_typed, caption, questions, sentence, word_salad
from unmask_training.referring import word_ids
from unmask_training.render import render
from unmask_training.sequences import SPOKEN_CANVAS, SPOKEN_MARK, Sample, Writer
from unmask_training.world import Scene, describable_scene, free_scene

SILENCE = ""  # the lexicon's word for a slot of silence
Heard = list[tuple[int, int]]  # (row, text token) of a recording, as the ears' CTC head tells it
Pictures = list[tuple[Scene, list[int]]]
T = TypeVar("T")
_OWN_VOICE = 0.25  # of the recordings to recognise: a model should understand what it says itself
# Kinds of questions that are asked more often: those that a model of this size learns last.
_HARD = {"place": 2.5, "color": 2.0, "relation": 3.0, "shape": 2.5, "background": 2.0, "describe": 2.0}


@torch.no_grad()
def tokenise_pictures(tokenizer: ImageTokenizer, scenes: list[Scene], side: int, rng: random.Random | None) -> Pictures:
    """Codes of each scene's rendering, in row order; always in float32, so that serving sees the same codes."""
    found: Pictures = []
    device = device_of(tokenizer)
    for start in range(0, len(scenes), 16):
        batch = scenes[start : start + 16]
        images = torch.stack([prepare(render(s, side, rng), side) for s in batch])
        with full_precision():
            codes = tokenizer.encode(images.to(device)).cpu()
        found += zip(batch, codes.flatten(1).tolist(), strict=True)
    return found


def speaking_lexicon(tokenizer: SpeechTokenizer) -> dict[str, list[int]]:
    """Each word's codes in the speaking voice, tokenised alone: replies are said word by word.

    Word-aligned speech makes text -> codes nearly a table, which a model of this size learns; running speech it
    does not (mini notes in docs/log.md).
    """
    import soxr

    lexicon = {}
    for word, samples in word_recordings(SPEAKING_RATE).items():
        wide = torch.from_numpy(soxr.resample(samples, SPEAKING_RATE, 16_000).astype(np.float32))
        lexicon[word] = tokenizer.encode(wide)[:SLOT_TOKENS].tolist()
    silence = torch.cat([wide, torch.zeros(len(wide))])  # after a word, as it is heard in speech
    return lexicon | {SILENCE: tokenizer.encode(silence)[SLOT_TOKENS : 2 * SLOT_TOKENS].tolist()}


def _looks(scene: Scene | None) -> Hashable:
    """What makes a captioned picture a rare one, beside its things."""
    return scene and (scene.layout, scene.place, scene.background)


def _even(kinds: Sequence[Hashable]) -> list[float]:
    """Cumulative weights that draw every kind equally often."""
    counts = Counter(kinds)
    return list(accumulate(1 / counts[kind] for kind in kinds))


def _half_even(pool: Sequence[T], cumulative: Sequence[float], rng: random.Random) -> T:
    """One of the pool: half of the time any, half of the time by weight, such that what is rare is learnt, too.

    Else a model of this size guesses rare words from their neighbours instead of listening, and draws what is common.
    """
    if rng.random() < 0.5:
        return rng.choice(pool)
    return rng.choices(pool, cum_weights=cumulative)[0]


@dataclass
class Pools:
    """Training material of the three stages. What a stage does not use may be empty."""

    writer: Writer
    drawn: Pictures  # scenes that captions fix
    seen: Pictures  # free scenes
    said: tuple[Said, ...] = ()
    said_codes: dict[int, list[int]] = field(default_factory=dict)  # picture codes of spoken captions
    lexicon: dict[str, list[int]] = field(default_factory=dict)
    heard: tuple[Heard, ...] = ()  # of each recording

    def __post_init__(self) -> None:
        self.clues = word_ids(self.writer.tokenizer)
        self.by_text: dict[str, list[int]] = {}
        for i, s in enumerate(self.said):
            self.by_text.setdefault(s.text, []).append(i)
        counts = Counter(word for s in self.said for word in s.text.split())
        self.even_words = list(accumulate(sum(1 / counts[word] for word in s.text.split()) for s in self.said))
        self.even_drawn = _even([_looks(scene) for scene, _ in self.drawn])
        self.captions = [i for i, s in enumerate(self.said) if s.kind == "caption"]
        self.even_captions = _even([_looks(self.said[i].scene) for i in self.captions])
        self.own = [i for i, s in enumerate(self.said) if s.kind == "own"]
        self.talks = [i for i, s in enumerate(self.said) if s.kind == "talk"]
        self.answers = {q: a for a, asked in SMALL_TALK.items() for q in asked}

    def slots_of(self, typed: str, words: str) -> list[int]:
        """Codes of `typed` in which each text token has a slot: a word's first token its sound, all others silence.

        So the length of the speech follows from the text alone (publish.py pins it), whatever is typed.
        """
        codes = []
        for i, (shown, word) in enumerate(zip(typed.split(), words.split(), strict=True)):
            pieces = len(self.writer.text(f" {shown}" if i else shown))
            codes += self.lexicon[word] + self.lexicon[SILENCE] * (pieces - 1)
        return codes

    def draw(self, task: str, rng: random.Random) -> Sample:
        """One sample of a task. Conditions are dropped at times, so that guidance has something to compare with."""
        return getattr(self, f"_{task}")(rng)  # type: ignore[no-any-return]

    def _t2i(self, rng: random.Random) -> Sample:
        scene, codes = _half_even(self.drawn, self.even_drawn, rng)
        text = "" if rng.random() < 0.05 else as_typed(caption(scene, rng), rng)
        return self.writer.text_to_image(text, codes, rng)

    def _vqa(self, rng: random.Random) -> Sample:
        scene, codes = rng.choice(self.seen if rng.random() < 0.75 else self.drawn)
        if len(scene.things) == 1 and rng.random() < 0.5:  # which of several things is meant is learnt last
            scene, codes = rng.choice(self.seen)
        # Several questions about a picture teach seeing at a third of the cost of a picture each.
        count = 1 if rng.random() < 0.25 else rng.randint(3, 9)
        every = questions(scene, rng)
        for _ in range(2):  # whether something is there takes most asking to be learnt
            every += [q for q in questions(scene, rng) if q[0] == "yes_no"]
        asked = sorted(every, key=lambda q: -(rng.random() ** (1 / _HARD.get(q[0], 1.0))))
        typed = [(as_typed(question, rng), answer) for _, question, answer in asked[:count]]
        return replace(self.writer.image_questions(typed, codes), scene=scene)

    def _asr(self, rng: random.Random) -> Sample:
        if self.own and rng.random() < _OWN_VOICE:
            i = rng.choice(self.own)
        else:
            i = _half_even(range(len(self.said)), self.even_words, rng)
        return self.writer.recognition(i, self.said[i].text)

    def _tts(self, rng: random.Random) -> Sample:
        text = word_salad(rng, 1, 8) if rng.random() < 0.5 else sentence(rng, rng.choice(self.drawn)[0])
        text = " ".join(text.split()[:12])
        typed = as_typed(text, rng) if rng.random() < 0.3 else text
        return self.writer.synthesis(typed, self.slots_of(typed, text))

    def _s2i(self, rng: random.Random) -> Sample:
        i = _half_even(self.captions, self.even_captions, rng)
        return self.writer.speech_to_image(None if rng.random() < 0.08 else i, self.said_codes[i])

    def _svqa(self, rng: random.Random) -> Sample:
        while True:
            scene, codes = rng.choice(self.seen if rng.random() < 0.75 else self.drawn)
            _, question, answer = rng.choice(questions(scene, rng))
            speech = self.slots_of(answer, answer)
            if question in self.by_text and len(speech) + SPOKEN_MARK + 5 < SPOKEN_CANVAS and len(answer.split()) < 9:
                spoken = self.writer.spoken(rng.choice(self.by_text[question]), answer, speech, codes)
                return replace(spoken, scene=scene)

    def _sqa(self, rng: random.Random) -> Sample:
        i = rng.choice(self.talks)
        answer = self.answers[self.said[i].text]
        return self.writer.spoken(i, answer, self.slots_of(answer, answer), None)

    def _chat(self, rng: random.Random) -> Sample:
        answer = rng.choice(tuple(SMALL_TALK))
        return self.writer.talk(as_typed(rng.choice(SMALL_TALK[answer]), rng), answer)


def scenes(seed: int, drawn: int, seen: int) -> tuple[list[Scene], list[Scene]]:
    rng = random.Random(seed)
    return [describable_scene(rng) for _ in range(drawn)], [free_scene(rng) for _ in range(seen)]
