"""A JSONL sample -> token ids, by nothing but a bundle's description: its tokenizer, codecs and special tokens.

What a user gives becomes what the model reads when it serves: pictures as codes of the size of prompts, recordings as
rows of the speech encoder. What the assistant gives becomes what it writes: pictures as codes of the size of answers,
recordings as codes of the speech tokenizer. An answer is content, `<|im_end|>` and newline, and all of it is learnt
(model.md, Tokens).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask_engine.bundle import Bundle, BundleError
from unmask_engine.codecs.image_pixels import prepare
from unmask_engine.codecs.image_tokenizer import ImageTokenizer
from unmask_engine.codecs.speech_tokenizer import SpeechTokenizer
from unmask_engine.components import load_component
from unmask_engine.layout import without_slots
from unmask_engine.media import resample
from unmask_engine.models.speech_encoder import SpeechEncoder
from unmask_engine.models.speech_frontend import SpeechFrontend, read_cmvn
from unmask_engine.preset import AUDIO_SLOT, IMAGE_SLOT, TEXT_SLOT, Message, Preset
from unmask_engine.text import TextTokenizer
from unmask_engine.vocabulary import Vocabulary
from unmask_training.jsonl import JsonSample

_SLOTS = re.compile(f"({re.escape(AUDIO_SLOT)}|{re.escape(IMAGE_SLOT)})")


@dataclass(frozen=True)
class Span:
    start: int
    stop: int


@dataclass(frozen=True)
class Written:
    """A sample as ids, without tail pads.

    `speech` are the rows of the speech encoder, (rows, size) each, and where the first of them stands. `bare` is the
    prompt without the user's content, what guidance compares with; None where there are several answers.
    """

    ids: list[int]
    answers: tuple[Span, ...]
    speech: tuple[tuple[int, NDArray[np.float16]], ...]
    bare: list[int] | None


class BundleWriter:
    """Writes samples for one bundle. `encoder` is its speech encoder, which hears but does not learn.

    `pin_speech` puts the begin-of-audio mark of a spoken answer where the preset will pin it, after pads, as the
    built-in model was trained; without it speech follows its text at once, as in the paper.
    """

    def __init__(self, bundle: Bundle, encoder: SpeechEncoder, vocab_size: int, pin_speech: bool = False) -> None:
        (file,) = bundle.files("text_tokenizer")
        self.bundle, self.encoder = bundle, encoder
        self.mark = _speech_mark(bundle.presets) if pin_speech else 0
        self.tokenizer = TextTokenizer(file)
        self.vocabulary = Vocabulary.build(bundle.tokens, vocab_size, self.tokenizer.id_of, self.tokenizer.encode_plain)
        self.device = next(encoder.parameters()).device
        cmvn = read_cmvn(bundle.files("cmvn")[0]) if bundle.has("cmvn") else None
        self.frontend = SpeechFrontend(cmvn)

    # Codecs run in float32: in bfloat16 some codes come out otherwise (docs/log.md).
    @cached_property
    def images(self) -> ImageTokenizer:
        found = load_component(self.bundle, "image_tokenizer", device=self.device, dtype=torch.float32)
        return cast(ImageTokenizer, found)

    @cached_property
    def speech(self) -> SpeechTokenizer:
        found = load_component(self.bundle, "speech_tokenizer", device=self.device, dtype=torch.float32)
        return cast(SpeechTokenizer, found)

    def write(self, sample: JsonSample) -> Written:
        """Raises DataError for what cannot be decoded, heard or said."""
        ids: list[int] = []
        answers: list[Span] = []
        speech: list[tuple[int, NDArray[np.float16]]] = []
        audios, images = iter(range(len(sample.audios))), iter(range(len(sample.images)))
        for message in sample.messages:
            is_answer = message.role == "assistant"
            content: list[int] = [] if is_answer else self.tokenizer.encode(f"<|im_start|>{message.role}")
            if is_answer:
                ids += self.tokenizer.encode("<|im_start|>assistant\n")
            start = len(ids)
            pieces = _SLOTS.split(message.content if is_answer else f"\n{message.content}")
            for piece in pieces:
                if piece == IMAGE_SLOT:
                    content += self._image(sample, next(images), is_answer)
                elif piece == AUDIO_SLOT and is_answer:
                    content += self._said(sample, next(audios), len(content))
                elif piece == AUDIO_SLOT:
                    rows = self._heard(sample, next(audios))
                    speech.append((start + len(content) + 1, rows))
                    content += self._framed("audio", [self.vocabulary.special["context_of_audio"]] * len(rows))
                else:
                    content += self.tokenizer.encode_plain(piece)
            ids += [*content, self.vocabulary.end, self.vocabulary.special["newline"]]
            if is_answer:
                answers.append(Span(start, len(ids)))
        bare = self._bare(sample.messages) if len(answers) == 1 else None
        return Written(ids, tuple(answers), tuple(speech), bare)

    def _framed(self, kind: str, ids: Sequence[int]) -> list[int]:
        return [self.vocabulary.special[f"begin_of_{kind}"], *ids, self.vocabulary.special[f"end_of_{kind}"]]

    @torch.no_grad()
    def _image(self, sample: JsonSample, i: int, is_answer: bool) -> list[int]:
        media = self.bundle.media
        side = media.image_output_size if is_answer else media.image_input_size
        pixels = prepare(sample.image(i).pixels, side).unsqueeze(0).to(self.device)
        return self._framed("image", [self.vocabulary.image[c] for c in self.images.encode(pixels).flatten().tolist()])

    @torch.no_grad()
    def _heard(self, sample: JsonSample, i: int) -> NDArray[np.float16]:
        feats = self.frontend(resample(sample.audio(i), self.bundle.media.audio_input_rate).samples)
        if not len(feats):
            raise sample.error(f"{sample.audios[i]} is too short to be heard: 25 ms at least")
        # The reference rounds features to bfloat16 whatever the model's type (model.md, Audio input path).
        rows: Tensor = self.encoder(feats[None].to(self.device, torch.bfloat16), None)[0]
        return rows.float().cpu().numpy().astype(np.float16)

    @torch.no_grad()
    def _said(self, sample: JsonSample, i: int, written: int) -> list[int]:
        samples = resample(sample.audio(i), self.speech.config.sample_rate).samples
        codes = self.speech.encode(torch.from_numpy(samples).to(self.device)).tolist()
        return self._pads(sample, written) + self._framed("audio", [self.vocabulary.audio[code] for code in codes])

    def _pads(self, sample: JsonSample, written: int) -> list[int]:
        """Pads between an answer's text and its speech, up to the preset's pin."""
        if not (self.mark and written):
            return []
        if written > self.mark:
            raise sample.error(f"the text of the spoken answer takes {written} tokens; speech begins at {self.mark}")
        return [self.vocabulary.pad] * (self.mark - written)

    def _bare(self, messages: tuple[Message, ...]) -> list[int]:
        """The prompt of the preset that wrote these messages without its slots, or else without what users said."""
        asked = messages[:-1]
        empty = tuple(Message(m.role, "" if m.role == "user" else m.content) for m in asked)
        for preset in sorted(self.bundle.presets, key=_literals, reverse=True):  # the narrowest template first
            if _wrote(preset, asked):
                empty = without_slots(preset.messages)
                break
        turns = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in empty)
        return self.tokenizer.encode(turns + "<|im_start|>assistant\n")


def _speech_mark(presets: Sequence[Preset]) -> int:
    """Where the speech of a spoken answer begins."""
    for preset in presets:
        for pin in preset.pins:
            if pin.token == "begin_of_audio" and preset.canvas.tokens is not None:
                return pin.position(preset.canvas.tokens)
    raise BundleError("no preset of the bundle pins where speech begins; leave --pin-speech out")


def _literals(preset: Preset) -> int:
    """Characters of the template that are not slots."""
    return sum(len(re.sub(r"<\|\w+\|>|{text}", "", m.content)) for m in preset.messages)


def _wrote(preset: Preset, messages: tuple[Message, ...]) -> bool:
    """Whether the preset's template, its text slot filled with anything, gives these messages."""
    if [m.role for m in preset.messages] != [m.role for m in messages]:
        return False
    if all(m.content == TEXT_SLOT for m in preset.messages):  # fits every text
        return False
    patterns = (re.escape(m.content.strip("\n")).replace(re.escape(TEXT_SLOT), "(.*)") for m in preset.messages)
    return all(re.fullmatch(p, m.content.strip("\n"), re.DOTALL) for p, m in zip(patterns, messages, strict=True))
