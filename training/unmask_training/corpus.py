"""The recorded corpora on disk: what unmask-mini hears (many voices) and the voice it speaks with.

A corpus is one flat int16 array of samples and a JSON index, deterministic from its seed.
"""

import dataclasses
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unmask_training.language import SMALL_TALK, all_questions, caption, sentence, word_salad, words
from unmask_training.voices import HELD_OUT_VOICES, SPEAKING_VOICE, Delivery, any_delivery, record, record_all
from unmask_training.world import Scene, Thing, describable_scene

LISTENING_RATE = 16_000
SPEAKING_RATE = 22_050
TOKEN_SECONDS = 0.08  # the speech tokenizer's 12.5 Hz


@dataclass(frozen=True)
class Said:
    """One recording's text, what it is, and the scene that a caption describes."""

    text: str
    kind: str  # caption, question, talk or other
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


def listening(seed: int, captions: int, takes: int, others: int, held_out: bool = False) -> Corpus:
    """What people say to the model: captions, every question and small talk `takes` times, and other sentences."""
    rng = random.Random(seed)
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
        for asked in SMALL_TALK.values():
            for text in asked:
                add(text, "talk")
    for _ in range(others):
        scene = describable_scene(rng)
        add(word_salad(rng) if rng.random() < 0.4 else sentence(rng, scene), "other")
    return _recorded(said, deliveries, LISTENING_RATE)


def speaking(seed: int, count: int) -> Corpus:
    """The speaking voice: running sentences, and for a third of them the words one by one as replies say them."""
    rng = random.Random(seed)
    said = []
    for _ in range(count):
        text = word_salad(rng, 3, 7) if rng.random() < 0.5 else sentence(rng, describable_scene(rng))
        said.append(Said(text, "other", SPEAKING_VOICE))
    rate = SPEAKING_RATE
    corpus = _recorded(said, [Delivery(SPEAKING_VOICE)] * count, rate)
    lexicon = word_recordings(rate)
    waves = list(corpus.recordings())
    for i in range(0, count, 3):
        waves[i] = np.concatenate([lexicon[w] for w in said[i].text.split()])
    ends = np.cumsum([len(w) for w in waves], dtype=np.int64)
    flat = (np.concatenate(waves) * 32767).astype(np.int16)
    return Corpus(corpus.said, flat, ends, rate)


def word_recordings(rate: int) -> dict[str, NDArray[np.float32]]:
    """Each word alone in the speaking voice, trimmed softly and padded with silence to whole tokens."""
    token = TOKEN_SECONDS * rate
    padded = {}
    for word in words():
        samples = record(word, Delivery(SPEAKING_VOICE), rate)
        loud = np.flatnonzero(np.convolve(samples**2, np.ones(200) / 200, "same") > 3e-6)
        samples = samples[max(0, loud[0] - 200) : loud[-1] + 600]
        # At least one token's worth of silence between words keeps them apart for the listener.
        tokens = int(np.ceil(len(samples) / token + 0.9))
        total = round(tokens * token)
        lead = min(int(0.02 * rate), total - len(samples))
        padded[word] = np.pad(samples, (lead, total - lead - len(samples))).astype(np.float32)
    return padded
