"""Turns one sample of a task into token ids: prompt, answer, tail pads, and where speech embeddings go.

The prompts are those of the presets, so that what is trained is what is served.
"""

import random
from dataclasses import dataclass, replace
from functools import cached_property

from tokenizers import Tokenizer

from unmask_training.templates import (
    ASR_INSTRUCTION,
    S2I_SYSTEM,
    SQA_SYSTEM,
    SVQA_SYSTEM,
    T2I_INSTRUCTIONS,
    TTS_INSTRUCTION,
)
from unmask_training.world import Scene

# A spoken answer has its begin-of-audio mark here, as the presets pin it: int(0.2 * canvas).
SPOKEN_CANVAS = 80
SPOKEN_MARK = int(0.2 * SPOKEN_CANVAS)


@dataclass(frozen=True)
class Sample:
    """`ids` up to the end of the answer without pads; `speech` is the index of a recording's features.

    `earlier` are the (start, end) of answers in earlier turns, which are learnt too. `image_start` is where the codes
    of the prompt's picture begin and `scene` what it shows, where that is known.
    """

    ids: list[int]
    answer_start: int
    speech: int | None = None
    speech_start: int = 0
    max_pads: int = 16
    earlier: tuple[tuple[int, int], ...] = ()
    image_start: int = 0
    scene: Scene | None = None
    spoken: tuple[int, int, int] | None = None  # first text token, first code, text tokens: each has a slot of codes
    recognised: int = 0  # text tokens of the answer that the recording says, in its order
    copied: tuple[int, int] = (0, 0)  # (start, end) of what says again what the prompt says, in the other modality

    @property
    def answer_length(self) -> int:
        return len(self.ids) - self.answer_start


class Writer:
    """Writes samples with the ids of one tokenizer. `rows(i)` is the number of speech rows of recording i."""

    def __init__(self, tokenizer: Tokenizer, speech_rows: list[int]) -> None:
        self.tokenizer = tokenizer
        self.speech_rows = speech_rows

    def id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise KeyError(f"the tokenizer has no token {token!r}")
        return int(found)

    @cached_property
    def pad(self) -> int:
        return self.id("<|endoftext|>")

    @cached_property
    def mask(self) -> int:
        return self.id("<|mask|>")

    def text(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text).ids)

    def image(self, codes: list[int]) -> list[int]:
        first = self.id("<|image_0|>")
        return [self.id("<|begin_of_image|>"), *(first + c for c in codes), self.id("<|end_of_image|>")]

    def audio(self, codes: list[int]) -> list[int]:
        first = self.id("<|audio_0|>")
        return [self.id("<|begin_of_audio|>"), *(first + c for c in codes), self.id("<|end_of_audio|>")]

    def sample(
        self, user: str, answer: list[int], system: str = "", image: list[int] | None = None,
        speech: int | None = None, max_pads: int = 16,
    ) -> Sample:  # fmt: skip
        """The chat template around a user turn that may hold `<|image|>` and `<|audio|>` once each."""
        text = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
        text += f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
        ids: list[int] = []
        start = image_start = 0
        for token in self.text(text):
            if image is not None and token == self.id("<|image|>"):
                image_start = len(ids) + 1
                ids += self.image(image)
            elif speech is not None and token == self.id("<|audio|>"):
                rows = self.speech_rows[speech]
                start = len(ids) + 1
                ids += [self.id("<|begin_of_audio|>"), *[self.id("<|context_of_audio|>")] * rows]
                ids.append(self.id("<|end_of_audio|>"))
            else:
                ids.append(token)
        end = [self.id("<|im_end|>"), *self.text("\n")]
        return Sample(ids + answer + end, len(ids), speech, start, max_pads, image_start=image_start)

    def text_to_image(self, caption: str, codes: list[int], rng: random.Random) -> Sample:
        """Without a caption this is the unconditional prompt that guidance compares with (layout.without_slots)."""
        instruction = T2I_INSTRUCTIONS[0] if not caption or rng.random() < 0.6 else rng.choice(T2I_INSTRUCTIONS)
        return self.sample(f"{instruction}\n{caption}" if caption else instruction, self.image(codes))

    def image_questions(self, asked: list[tuple[str, str]], image: list[int]) -> Sample:
        """A conversation of (question, answer) about one image, which is shown with the first question."""
        (question, answer), *further = asked
        ids = self.sample(f"{question}\n<|image|>", self.text(answer), image=image)
        for question, answer in further:
            turn = self.sample(question, self.text(answer))
            start = len(ids.ids)
            earlier = (*ids.earlier, (ids.answer_start, start))
            ids = Sample(ids.ids + turn.ids, start + turn.answer_start, earlier=earlier, image_start=ids.image_start)
        return ids

    def recognition(self, speech: int, text: str) -> Sample:
        said = self.text(text)
        sample = self.sample(f"{ASR_INSTRUCTION}\n<|audio|>", said, speech=speech)
        return replace(sample, recognised=len(said), copied=(sample.answer_start, len(sample.ids)))

    def synthesis(self, text: str, codes: list[int]) -> Sample:
        sample = self.sample(f"{TTS_INSTRUCTION}\n{text}", self.audio(codes))
        count = len(self.text(text))
        text_start = sample.ids.index(self.id("<|im_end|>")) - count
        first = sample.answer_start + 1
        return replace(sample, spoken=(text_start, first, count), copied=(first, first + len(codes)))

    def speech_to_image(self, speech: int | None, codes: list[int]) -> Sample:
        """Without speech this is the unconditional prompt, as `text_to_image` without a caption."""
        user = "" if speech is None else "\n<|audio|>"
        return self.sample(user, self.image(codes), system=S2I_SYSTEM, speech=speech)

    def spoken(self, speech: int, answer: str, codes: list[int], image: list[int] | None) -> Sample:
        """Text, newline, pads up to the pinned mark, speech."""
        text = self.text(answer + "\n")
        if len(text) > SPOKEN_MARK:
            raise ValueError(f"{answer!r} is too long for a spoken answer")
        reply = text + [self.pad] * (SPOKEN_MARK - len(text)) + self.audio(codes)
        if image is None:
            sample = self.sample("\n<|audio|>", reply, system=SQA_SYSTEM, speech=speech)
        else:
            sample = self.sample("<|audio|>\n<|image|>", reply, system=SVQA_SYSTEM, image=image, speech=speech)
        start = sample.answer_start
        return replace(sample, spoken=(start, start + SPOKEN_MARK + 1, len(self.text(answer))))

    def talk(self, question: str, answer: str) -> Sample:
        return self.sample(question, self.text(answer))
