"""The items of a conversation: what was said, heard and shown, and how each reads on the wire."""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import soxr

from unmask_engine.media import MediaLimits, read_image
from unmask_engine.request import AudioPart, ImagePart, Part, RequestError, TextPart
from unmask_server.body import decode_base64
from unmask_server.realtime.audio import PCM_RATE, Samples, WireFormat, as_float
from unmask_server.realtime.events import JsonObject, new_id

Role = Literal["system", "user", "assistant"]
Status = Literal["in_progress", "completed", "incomplete"]

MS_PER_CHARACTER: Final = 65  # of unhurried English speech: what is left unsaid of an interrupted sentence
MAX_TEXT_CHARACTERS: Final = 200_000  # no prompt holds more
MAX_PICTURES: Final = 4  # in one message
MAX_RETRIEVED_BYTES: Final = 360_000  # of sound in one frame; as base64 below the 512 KiB that every client takes


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Heard:
    """A user's recording; `samples` are None where the conversation has grown too long."""

    samples: Samples | None
    rate: int
    transcript: str | None = None

    @property
    def seconds(self) -> float:
        return 0.0 if self.samples is None else len(self.samples) / self.rate


@dataclass(frozen=True)
class Shown:
    image: ImagePart | None  # None where the conversation has grown too long

    @property
    def num_pixels(self) -> int:
        return 0 if self.image is None else self.image.pixels.shape[0] * self.image.pixels.shape[1]


@dataclass(frozen=True)
class Said:
    """The model's speech. Its words are taken to be spread evenly over its time."""

    transcript: str
    duration_ms: int

    def until(self, ms: int) -> "Said":
        """What was said by then: whole words."""
        ms = max(ms, 0)
        if ms >= self.duration_ms:
            return self
        end = len(self.transcript) * ms // self.duration_ms
        is_whole = end >= len(self.transcript) or self.transcript[end].isspace()
        words = self.transcript[:end] if is_whole else self.transcript[:end].rpartition(" ")[0]
        return Said(words.rstrip(), ms)

    @staticmethod
    def interrupted(transcript: str, spoken_ms: int) -> "Said":
        """The words run ahead of the sound: only as many were said as there was time for."""
        whole_ms = max(spoken_ms, MS_PER_CHARACTER * len(transcript))
        return Said(transcript, whole_ms).until(spoken_ms)


Content = Text | Heard | Shown | Said


@dataclass(frozen=True)
class Item:
    role: Role
    content: tuple[Content, ...]
    id: str = field(default_factory=lambda: new_id("item"))
    status: Status = "completed"

    @property
    def text(self) -> str:
        """All words of it that are known."""
        words = [c.text if isinstance(c, Text) else getattr(c, "transcript", None) for c in self.content]
        return "\n".join(word for word in words if word)

    @property
    def media(self) -> tuple[AudioPart | ImagePart, ...]:
        """What is kept of it and not told by `text`."""
        untold = (c for c in self.content if not (isinstance(c, Heard) and (c.transcript or c.samples is None)))
        parts = (_part(c) for c in untold if not (isinstance(c, Shown) and c.image is None))
        return tuple(part for part in parts if not isinstance(part, TextPart))

    @property
    def num_characters(self) -> int:
        return sum(len(getattr(c, "text", None) or getattr(c, "transcript", None) or "") for c in self.content)

    @property
    def parts(self) -> tuple[Part, ...]:
        """For the model; raises RequestError where a recording is not kept any more."""
        return tuple(_part(content) for content in self.content)

    def to_json(self, *, with_audio: bool = False) -> JsonObject:
        content = [_content_json(self.role, c, with_audio) for c in self.content]
        return {
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": content,
        }


async def read_item(
    wire: object, format: WireFormat, limits: MediaLimits, slots: asyncio.Semaphore, param: str = "item"
) -> Item:
    """Raises RequestError. Pictures are decoded in a worker thread."""
    if not isinstance(wire, dict):
        raise _invalid(f"{param} must be an object.", param)
    kind, role, given = wire.get("type", "message"), wire.get("role"), wire.get("id")
    if kind != "message":
        message = f"{param} is a {str(kind)[:64]}; this model calls no functions, so items are messages."
        raise RequestError(message, param=f"{param}.type", code="tools_not_supported")
    if role not in ("system", "user", "assistant"):
        raise _invalid(f"{param}.role must be system, user or assistant.", f"{param}.role")
    if given is not None and not (isinstance(given, str) and 0 < len(given) <= 128):
        raise _invalid(f"{param}.id must be a string of at most 128 characters.", f"{param}.id")
    content = wire.get("content")
    if not isinstance(content, Sequence) or isinstance(content, str) or not 0 < len(content) <= 64:
        raise _invalid(f"{param}.content must list 1 to 64 parts.", f"{param}.content")
    if sum(isinstance(part, Mapping) and part.get("type") == "input_image" for part in content) > MAX_PICTURES:
        raise _invalid(f"{param}.content may hold at most {MAX_PICTURES} pictures.", f"{param}.content")
    async with slots:
        read = await asyncio.to_thread(_read_contents, content, role, format, limits, f"{param}.content")
    item = Item(role, read) if given is None else Item(role, read, given)
    if item.num_characters > MAX_TEXT_CHARACTERS:
        raise _invalid(f"{param} has more than {MAX_TEXT_CHARACTERS:,} characters.", f"{param}.content")
    return item


def _read_contents(
    parts: Sequence[Any], role: Role, format: WireFormat, limits: MediaLimits, param: str
) -> tuple[Content, ...]:
    """The limit of a picture is that of all of them together."""
    read: list[Content] = []
    for i, part in enumerate(parts):
        read.append(_read_content(part, role, format, limits, f"{param}[{i}]"))
        if isinstance(shown := read[-1], Shown):
            limits = replace(limits, max_pixels=limits.max_pixels - shown.num_pixels)
    return tuple(read)


def _read_content(part: Any, role: Role, format: WireFormat, limits: MediaLimits, param: str) -> Content:
    if not isinstance(part, Mapping):
        raise _invalid(f"{param} must be an object.", param)
    kind = part.get("type")
    if kind in (("output_text", "text") if role == "assistant" else ("input_text", "text")):
        return Text(_string(part, "text", param))
    if kind == "output_audio" and role == "assistant":
        transcript = _string(part, "transcript", param)
        return Said(transcript, MS_PER_CHARACTER * len(transcript))
    if kind == "input_audio" and role == "user":
        samples = format.decode(part.get("audio"), f"{param}.audio")
        if len(samples) > limits.max_seconds * format.rate:
            message = f"{param}.audio is longer than {limits.max_seconds:g} seconds."
            raise RequestError(message, param=f"{param}.audio", code="audio_too_long")
        written = None if part.get("transcript") is None else _string(part, "transcript", param)
        return Heard(samples, format.rate, written)
    if kind == "input_image" and role == "user":
        url = f"{param}.image_url"
        return Shown(read_image(decode_base64(str(part.get("image_url")), url), limits, param=url))
    raise _invalid(f"{param}.type {str(kind)[:64]!r} is not what a {role} message holds.", f"{param}.type")


def _content_json(role: Role, content: Content, with_audio: bool) -> JsonObject:
    if isinstance(content, Text):
        return {"type": "output_text" if role == "assistant" else "input_text", "text": content.text}
    if isinstance(content, Said):
        return {"type": "output_audio", "transcript": content.transcript}
    if isinstance(content, Shown):
        return {"type": "input_image", "detail": "auto"}  # not the picture: some clients take no frame so large
    audio = {}
    if with_audio and content.samples is not None and content.samples.nbytes <= MAX_RETRIEVED_BYTES:
        audio = {"audio": base64.b64encode(_at_pcm_rate(content).astype("<i2").tobytes()).decode()}
    return {"type": "input_audio", "transcript": content.transcript, **audio}


def _at_pcm_rate(heard: Heard) -> Samples:
    assert heard.samples is not None
    if heard.rate == PCM_RATE:  # soxr would dither it
        return heard.samples
    resampled: Samples = soxr.resample(heard.samples, heard.rate, PCM_RATE)
    return resampled


def _part(content: Content) -> Part:
    if isinstance(content, Text):
        return TextPart(content.text)
    if isinstance(content, Shown) and content.image is not None:
        return content.image
    if isinstance(content, Said):
        return TextPart(content.transcript)
    if isinstance(content, Heard) and content.samples is not None:
        return AudioPart(as_float(content.samples), content.rate)
    message = "This recording or picture is not kept any more; send it again."
    raise RequestError(message, param="item", code="media_not_kept")


def _string(part: Mapping[str, Any], name: str, param: str) -> str:
    value = part.get(name)
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARACTERS:
        message = f"{param}.{name} must be a string of at most {MAX_TEXT_CHARACTERS:,} characters."
        raise _invalid(message, f"{param}.{name}")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise _invalid(f"{param}.{name} has half a character in it, a lone surrogate.", f"{param}.{name}")
    return value


def _invalid(message: str, param: str) -> RequestError:
    return RequestError(message, param=param, code="invalid_value")
