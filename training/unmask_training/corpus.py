"""The recorded corpora on disk: what unmask-mini hears (many voices) and the voice it speaks with.

A corpus is one flat int16 array of samples and a JSON index, deterministic from its seed.
"""

import dataclasses
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unmask_training.language import SMALL_TALK, all_questions, caption, sentence, word_salad, words
from unmask_training.spread import spread
from unmask_training.voices import (
    HELD_OUT_VOICES,
    SPEAKING_VOICE,
    Delivery,
    any_delivery,
    record,
    record_all,
    record_apart,
    trimmed,
)
from unmask_training.world import Scene, Thing, describable_scene

LISTENING_RATE = 16_000
SPEAKING_RATE = 22_050
TOKEN_SECONDS = 0.08  # the speech tokenizer's 12.5 Hz
SLOT_TOKENS = 8  # of a spoken word, with the silence after it


@dataclass(frozen=True)
class Said:
    """One recording's text, what it is, and the scene that a caption describes."""

    text: str
    kind: str  # caption, question, talk, own (in the model's voice and pace) or other
    voice: str
    scene: Scene | None = None


@dataclass(frozen=True)
class Corpus:
    said: tuple[Said, ...]
    samples: NDArray[np.int16]
    ends: NDArray[np.int64]
    sample_rate: int

    def __len__(self) -> int:
        return len(self.said)

    def recording(self, i: int) -> NDArray[np.float32]:
        start = self.ends[i - 1] if i else 0
        return np.asarray(self.samples[start : self.ends[i]], dtype=np.float32) / np.float32(32768)

    def recordings(self) -> Iterator[NDArray[np.float32]]:
        return (self.recording(i) for i in range(len(self)))

    def joined(self, other: "Corpus") -> "Corpus":
        """This one's recordings and then the other's."""
        ends = np.concatenate([self.ends, other.ends + len(self.samples)])
        return Corpus(self.said + other.said, np.concatenate([self.samples, other.samples]), ends, self.sample_rate)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "samples.npy", self.samples)
        np.save(folder / "ends.npy", self.ends)
        index = {"sample_rate": self.sample_rate, "said": [dataclasses.asdict(s) for s in self.said]}
        (folder / "index.json").write_text(json.dumps(index))

    @staticmethod
    def load(folder: Path) -> "Corpus":
        index = json.loads((folder / "index.json").read_text())
        said = tuple(Said(**{**s, "scene": s["scene"] and _scene(s["scene"])}) for s in index["said"])
        samples = np.load(folder / "samples.npy", mmap_mode="r")
        return Corpus(said, samples, np.load(folder / "ends.npy"), index["sample_rate"])


def _scene(raw: dict[str, object]) -> Scene:
    things = tuple(Thing(**t) for t in raw["things"])  # type: ignore[attr-defined]
    return Scene(things, str(raw["background"]), str(raw["layout"]), str(raw["place"]))


def _recorded(said: list[Said], deliveries: list[Delivery], rate: int) -> Corpus:
    waves = record_all([s.text for s in said], deliveries, rate)
    ends = np.cumsum([len(w) for w in waves], dtype=np.int64)
    return Corpus(tuple(said), np.concatenate(waves), ends, rate)


def listening(
    seed: int, captions: int, takes: int, talk_takes: int, others: int, apart: int, own: int, held_out: bool = False
) -> Corpus:
    """What people say to the model: captions, every question `takes` times and all small talk `talk_takes` times,
    other sentences, `apart` sentences word by word, half of them in the model's own voice and pace, and `own` ones all
    in that voice, whose words need no recording of their own."""
    rng = random.Random(seed)
    said, deliveries = _running_script(rng, captions, takes, talk_takes, others, held_out)
    corpus = _recorded(said, deliveries, LISTENING_RATE)
    corpus = corpus.joined(_apart(rng, apart)) if apart else corpus
    return corpus.joined(_own(rng, own)) if own else corpus


def listening_script(
    seed: int, captions: int, takes: int, talk_takes: int, others: int, apart: int, own: int
) -> list[Said]:
    """What `listening` records, without recording it."""
    rng = random.Random(seed)
    running, _ = _running_script(rng, captions, takes, talk_takes, others, held_out=False)
    return running + _apart_script(rng, apart)[0] + _own_script(rng, own)


def _running_script(
    rng: random.Random, captions: int, takes: int, talk_takes: int, others: int, held_out: bool
) -> tuple[list[Said], list[Delivery]]:
    said, deliveries = [], []

    def add(text: str, kind: str, scene: Scene | None = None) -> None:
        how = any_delivery(rng)
        if held_out:
            how = dataclasses.replace(how, voice=rng.choice(HELD_OUT_VOICES))
        said.append(Said(text, kind, how.voice, scene))
        deliveries.append(how)

    for _ in range(captions):
        scene = describable_scene(rng)
        add(caption(scene, rng), "caption", scene)
    for _ in range(takes):
        for question in all_questions():
            add(question, "question")
    for _ in range(talk_takes):
        for asked in SMALL_TALK.values():
            for text in asked:
                add(text, "talk")
    for _ in range(others):
        scene = describable_scene(rng)
        add(word_salad(rng) if rng.random() < 0.4 else sentence(rng, scene), "other")
    return said, deliveries


def _apart_script(rng: random.Random, count: int) -> tuple[list[Said], list[Delivery], list[list[float]]]:
    """Sentences said word by word, how, and the silences after the words."""
    said: list[Said] = []
    deliveries, gaps = [], []
    for _ in range(count):
        text = word_salad(rng, 1, 6) if rng.random() < 0.5 else sentence(rng, describable_scene(rng))
        deliveries.append(any_delivery(rng))
        own = len(said) % 2
        said.append(Said(text, "own" if own else "other", SPEAKING_VOICE if own else deliveries[-1].voice))
        gaps.append([rng.uniform(0.04, 0.35) for _ in text.split()])
    return said, deliveries, gaps


def _apart(rng: random.Random, count: int) -> Corpus:
    """Sentences said word by word: the odd ones by the speaking voice at its pace, the others by any."""
    own = word_recordings(LISTENING_RATE)
    said, deliveries, gaps = _apart_script(rng, count)

    def one(i: int) -> NDArray[np.int16]:
        if said[i].kind == "own":
            wave = np.concatenate([own[word] for word in said[i].text.split()])
        else:
            wave = record_apart(said[i].text, deliveries[i], LISTENING_RATE, gaps[i])
        return (wave * 32767).astype(np.int16)

    waves = spread(one, range(count))
    ends = np.cumsum([len(w) for w in waves], dtype=np.int64)
    return Corpus(tuple(said), np.concatenate(waves), ends, LISTENING_RATE)


def _own_script(rng: random.Random, count: int) -> list[Said]:
    """What the model may say, half of it words in any order."""
    said = []
    for _ in range(count):
        text = word_salad(rng, 1, 8) if rng.random() < 0.5 else sentence(rng, describable_scene(rng))
        said.append(Said(text, "own", SPEAKING_VOICE))
    return said


def _own(rng: random.Random, count: int) -> Corpus:
    said, words = _own_script(rng, count), word_recordings(LISTENING_RATE)
    spoken = {word: (wave * 32767).astype(np.int16) for word, wave in words.items()}
    waves = [np.concatenate([spoken[word] for word in s.text.split()]) for s in said]
    ends = np.cumsum([len(w) for w in waves], dtype=np.int64)
    return Corpus(tuple(said), np.concatenate(waves), ends, LISTENING_RATE)


def speaking_script(seed: int, count: int) -> list[Said]:
    """What `speaking` records, without recording it."""
    rng = random.Random(seed)
    said = []
    for _ in range(count):
        text = word_salad(rng, 3, 7) if rng.random() < 0.5 else sentence(rng, describable_scene(rng))
        said.append(Said(text, "other", SPEAKING_VOICE))
    return said


def speaking(seed: int, count: int) -> Corpus:
    """The speaking voice: running sentences, and for a third of them the words one by one as replies say them."""
    said = speaking_script(seed, count)
    rate = SPEAKING_RATE
    corpus = _recorded(said, [Delivery(SPEAKING_VOICE)] * count, rate)
    lexicon = word_recordings(rate)
    waves = list(corpus.recordings())
    for i in range(0, count, 3):
        waves[i] = np.concatenate([lexicon[w] for w in said[i].text.split()])
    ends = np.cumsum([len(w) for w in waves], dtype=np.int64)
    flat = (np.concatenate(waves) * 32767).astype(np.int16)
    return Corpus(corpus.said, flat, ends, rate)


@cache
def word_recordings(rate: int) -> dict[str, NDArray[np.float32]]:
    """Each word alone in the speaking voice, in a slot of `SLOT_TOKENS` tokens with silence at its end.

    Long words are said faster, so that all take the same time: the speech of a text is a row of slots, and where a
    word is spoken follows from where it stands.
    """
    slot, silence = round(SLOT_TOKENS * TOKEN_SECONDS * rate), round(0.5 * TOKEN_SECONDS * rate)

    def one(word: str) -> NDArray[np.float32]:
        speed = 1.0
        samples = trimmed(record(word, Delivery(SPEAKING_VOICE), rate))
        while len(samples) > slot - silence:
            speed *= max(1.02, len(samples) / (slot - silence))
            samples = trimmed(record(word, Delivery(SPEAKING_VOICE, speed), rate))
        lead = min(int(0.02 * rate), slot - len(samples))
        return np.pad(samples, (lead, slot - lead - len(samples))).astype(np.float32)

    return dict(zip(words(), spread(one, words()), strict=True))
