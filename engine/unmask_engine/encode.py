"""Media as what a prompt holds of them: codes of an image, rows of a recording, and those of a dialogue's turns.

Formats: model.md, Audio input path and Tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from unmask_engine.codecs.image_pixels import prepare as prepare_pixels
from unmask_engine.loaded import LoadedBundle
from unmask_engine.media import resample
from unmask_engine.preset import AUDIO_SLOT, IMAGE_SLOT
from unmask_engine.request import AudioPart, ImagePart, RequestError, Turn

MAX_PROMPT_TOKENS: Final = 8192
MAX_RECALLED_TOKENS: Final = 2048  # of the media of earlier turns: two minutes of speech
FRAME_TOKENS: Final = 2


@dataclass(frozen=True)
class Recalled:
    """An earlier turn as the prompt holds it. The media stand behind the text, recordings first, as in the presets."""

    turn: Turn
    recordings: tuple[Tensor, ...] = ()  # (R, H) embeddings each
    images: tuple[tuple[int, ...], ...] = ()  # token ids each

    def content(self, text_slot: str) -> str:
        """Of its message; `text_slot` stands for the text."""
        lines = [text_slot] if self.turn.text else []
        lines += [AUDIO_SLOT] * len(self.recordings) + [IMAGE_SLOT] * len(self.images)
        return "\n" + AUDIO_SLOT if lines == [AUDIO_SLOT] else "\n".join(lines)

    @property
    def is_empty(self) -> bool:
        return not (self.turn.text or self.recordings or self.images)


def too_long(tokens: int) -> RequestError:
    return RequestError(
        f"the prompt takes {tokens} tokens, at most {MAX_PROMPT_TOKENS} are allowed",
        param="input",
        code="input_too_long",
    )


@torch.inference_mode()
def encode_image(bundle: LoadedBundle, image: ImagePart) -> list[int]:
    """Token ids of its codes."""
    assert bundle.image_codec is not None  # prompt.py has checked
    pixels = prepare_pixels(image.pixels, bundle.image_input_size).unsqueeze(0).to(bundle.device)
    codes: list[int] = bundle.image_codec.encode(pixels).flatten().tolist()
    return [bundle.vocabulary.image[code] for code in codes]


@torch.inference_mode()
def encode_speech(bundle: LoadedBundle, audio: AudioPart) -> Tensor:
    """(R, H) embeddings; raises RequestError where it is too short or too long."""
    assert bundle.speech_frontend is not None  # prompt.py has checked
    feats = bundle.speech_frontend(resample(audio, bundle.audio_input_rate).samples)
    if len(feats) == 0:
        raise RequestError(
            "the recording is too short to be heard: 25 ms at least", param="input", code="audio_too_short"
        )
    if len(feats) > MAX_PROMPT_TOKENS:
        raise too_long(len(feats))
    return bundle.model.encode_speech(feats.unsqueeze(0).to(bundle.device))[0]


def recall(bundle: LoadedBundle, history: Sequence[Turn], room: int) -> tuple[Recalled, ...]:
    """The turns with as much of their media as fits into `room` tokens, the latest first; the text is always there.

    What the bundle has no codec for, or is too short to be heard, is left out; so is a turn of which nothing is left.
    """
    room = min(room, MAX_RECALLED_TOKENS)
    recalled: list[Recalled] = []
    for turn in reversed(history):
        recordings: list[Tensor] = []
        images: list[tuple[int, ...]] = []
        for part in reversed(turn.media):
            encoded = _encoded(bundle, part) if room > 0 else None
            if encoded is None:
                continue
            room -= len(encoded) + FRAME_TOKENS
            if room < 0:  # a smaller one before it is left out, too: what is there is the latest
                continue
            if isinstance(encoded, Tensor):
                recordings.insert(0, encoded)
            else:
                images.insert(0, encoded)
        recalled.insert(0, Recalled(turn, tuple(recordings), tuple(images)))
    return tuple(turn for turn in recalled if not turn.is_empty)


def _encoded(bundle: LoadedBundle, part: AudioPart | ImagePart) -> Tensor | tuple[int, ...] | None:
    if isinstance(part, ImagePart):
        return None if bundle.image_codec is None else tuple(encode_image(bundle, part))
    if bundle.speech_frontend is None:
        return None
    try:
        return encode_speech(bundle, part)
    except RequestError:
        return None
