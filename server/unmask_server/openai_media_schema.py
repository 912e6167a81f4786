"""The wire types of OpenAI's audio and image endpoints. Clients send many more fields than these: those are ignored.

A form's fields are strings, so types are not strict here.
"""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, field_validator

from unmask_server.openai_parts import InputAudio
from unmask_server.openai_wire import OpenAIRequest
from unmask_server.schema import MAX_PARTS, Integer, Name, Preview, Text

MAX_CHARACTERS: Final = 4096  # of a text to speak, as OpenAI's


class MediaRequest(OpenAIRequest):
    """`model` may be anything: there is one, and clients have names of their own in them."""

    model_config = ConfigDict(strict=False)


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class TranscriptionRequest(MediaRequest):
    """`language` and `prompt` are hints that this model has no use for."""

    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    timestamp_granularities: Annotated[
        tuple[Literal["segment", "word"], ...], BeforeValidator(_as_list), Field(max_length=MAX_PARTS)
    ] = ("segment",)
    include: Annotated[tuple[Literal["logprobs"], ...], BeforeValidator(_as_list), Field(max_length=MAX_PARTS)] = ()
    input_audio: InputAudio | None = None


def _voice_name(value: Any) -> Any:
    return value.get("id") if isinstance(value, dict) else value


class SpeechRequest(MediaRequest):
    """`instructions` are accepted and have no effect: the model speaks in one way."""

    input: str = Field(min_length=1, max_length=MAX_CHARACTERS)
    voice: Annotated[Name, BeforeValidator(_voice_name, json_schema_input_type=str | dict[str, str])] = "default"
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: float = 1.0
    stream_format: Literal["audio", "sse"] = "audio"


def _checked_size(size: str) -> str:
    if size != "auto" and not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", size):
        raise ValueError("give auto, or width and height in pixels, such as 512x512")
    return size


def _with_numbers(preview: Any) -> Any:
    """A form's fields are strings; the native type takes none for a number."""
    if not isinstance(preview, dict):
        return preview
    is_number = {key: isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) for key, value in preview.items()}
    return {key: int(value) if is_number[key] else value for key, value in preview.items()}


class ImageRequest(MediaRequest):
    """`quality`, `style` and `moderation` are accepted and have no effect; `steps` is what trades quality for time."""

    prompt: Text
    n: int = Field(default=1, ge=1, le=10)
    size: Annotated[Name, AfterValidator(_checked_size)] = "auto"
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Literal["png", "webp", "jpeg"] = "png"
    output_compression: Integer | None = Field(default=None, ge=0, le=100)
    background: Literal["auto", "opaque", "transparent"] = "auto"
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] = "auto"
    partial_images: int = Field(default=0, ge=0, le=3)
    preview: Annotated[Preview, BeforeValidator(_with_numbers, json_schema_input_type=Preview)] = Preview()

    @field_validator("preview")
    @classmethod
    def _has_previews(cls, preview: Preview) -> Preview:
        if preview.confidence:
            raise ValueError("confidence comes with the tokens of /v1/generate; leave it out")
        return preview
