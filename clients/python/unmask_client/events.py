"""The server-sent events of a streamed answer, typed."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from unmask_client.errors import APIConnectionError, error_of_envelope
from unmask_client.generation import Generation, Word, read_generation, read_words
from unmask_client.media import Audio, Image

PREFIX = "data: "
DONE = "[DONE]"


@dataclass(frozen=True)
class Created:
    id: str


@dataclass(frozen=True)
class Queued:
    position: int
    eta_ms: float | None


@dataclass(frozen=True)
class Step:
    """`committed` of the canvas's `total` positions are final after `step` of `steps`."""

    step: int
    steps: int
    committed: int
    total: int


@dataclass(frozen=True)
class TextDelta:
    text: str


@dataclass(frozen=True)
class TextDone:
    text: str


@dataclass(frozen=True)
class AudioDelta:
    """The next piece of speech, as pcm; the pieces together are the whole."""

    audio: Audio


@dataclass(frozen=True)
class AudioDone:
    duration_s: float
    transcript: str | None
    words: tuple[Word, ...] = ()  # where `extras` has word_timestamps


@dataclass(frozen=True)
class ImagePreview:
    """The picture as far as it has come: commits and guesses."""

    step: int
    image: Image


@dataclass(frozen=True)
class ImageDone:
    image: Image


@dataclass(frozen=True)
class TokensCommitted:
    """Tokens that are final now. Confidences only where `preview` asks for them."""

    step: int
    positions: tuple[int, ...]
    ids: tuple[int, ...]
    confidence: tuple[float | None, ...] | None


@dataclass(frozen=True)
class TokensGuessed:
    """What the model would take for the masks that are left."""

    step: int
    positions: tuple[int, ...]
    ids: tuple[int, ...]
    confidence: tuple[float | None, ...] | None


@dataclass(frozen=True)
class Completed:
    generation: Generation


@dataclass(frozen=True)
class Unknown:
    """An event of a newer server."""

    data: Mapping[str, Any]


Event: TypeAlias = (
    Created
    | Queued
    | Step
    | TextDelta
    | TextDone
    | AudioDelta
    | AudioDone
    | ImagePreview
    | ImageDone
    | TokensCommitted
    | TokensGuessed
    | Completed
    | Unknown
)

READERS: dict[str, Callable[[Mapping[str, Any]], Event]] = {
    "generation.created": lambda data: Created(data["id"]),
    "generation.queued": lambda data: Queued(data["position"], data.get("eta_ms")),
    "generation.step": lambda data: Step(data["step"], data["steps"], data["committed"], data["total"]),
    "text.delta": lambda data: TextDelta(data["text"]),
    "text.done": lambda data: TextDone(data["text"]),
    "audio.delta": lambda data: AudioDelta(
        Audio(base64.b64decode(data["audio"]), data["format"], sample_rate=data["sample_rate"])
    ),
    "audio.done": lambda data: AudioDone(data["duration_s"], data.get("transcript"), read_words(data)),
    "image.preview": lambda data: ImagePreview(data["step"], Image(base64.b64decode(data["data"]))),
    "image.done": lambda data: ImageDone(Image(base64.b64decode(data["data"]))),
    "tokens.commit": lambda data: TokensCommitted(data["step"], *_tokens(data)),
    "tokens.guess": lambda data: TokensGuessed(data["step"], *_tokens(data)),
    "generation.completed": lambda data: Completed(read_generation(data)),
}


class EventReader:
    """Turns the lines of a stream into events; `end` raises where the stream broke off before its end."""

    def __init__(self, request_id: str | None) -> None:
        self.request_id = request_id
        self.done = False

    def read(self, line: str) -> Event | None:
        """None for keep-alives and empty lines. Raises what the server reports."""
        if not line.startswith(PREFIX) or self.done:
            return None
        text = line.removeprefix(PREFIX)
        if text == DONE:
            self.done = True
            return None
        data = json.loads(text)
        if data.get("error"):
            raise error_of_envelope(data, status=None, request_id=self.request_id)
        return READERS.get(data.get("type", ""), Unknown)(data)

    def end(self) -> None:
        if not self.done:
            raise APIConnectionError("the stream broke off before its end")


def _tokens(
    data: Mapping[str, Any],
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float | None, ...] | None]:
    confidence = data.get("confidence")
    return tuple(data["positions"]), tuple(data["ids"]), None if confidence is None else tuple(confidence)
