"""The content of messages in the spellings of chat and of responses -> parts of a request."""

from typing import Annotated, Any, Final, TypeVar

from pydantic import BeforeValidator, Field

from unmask_engine.request import Part, RequestError, TextPart
from unmask_server.body import Media
from unmask_server.openai_wire import Lenient
from unmask_server.schema import MAX_PARTS, Name, Text

TEXT: Final = ("text", "input_text", "output_text", "refusal")
IMAGE: Final = ("image_url", "input_image")
AUDIO: Final = ("input_audio", "audio_url")
FILE: Final = ("file", "input_file")
T = TypeVar("T")


class Url(Lenient):
    url: str


class InputAudio(Lenient):
    data: str


class File(Lenient):
    file_data: str | None = None


class ContentPart(Lenient):
    type: Name
    text: Text | None = None
    refusal: Text | None = None
    image_url: Annotated[Url, BeforeValidator(lambda url: {"url": url} if isinstance(url, str) else url)] | None = None
    input_audio: InputAudio | None = None
    audio_url: Url | None = None
    file: File | None = None
    file_data: str | None = None


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


Content = Annotated[
    list[ContentPart],
    BeforeValidator(_as_parts, json_schema_input_type=str | list[ContentPart]),
    Field(max_length=MAX_PARTS),
]


def read_part(part: ContentPart, param: str, media: Media) -> Part:
    """Decodes the part at `param`; slow for media."""
    if part.type in TEXT:
        text = part.refusal if part.type == "refusal" else part.text
        return TextPart(_there(text, f"{param}.{'refusal' if part.type == 'refusal' else 'text'}"))
    if part.type in IMAGE:
        param = f"{param}.image_url"
        return media.image(_there(part.image_url, param).url, param)
    if part.type == "input_audio":
        param = f"{param}.input_audio"
        return media.audio(_there(part.input_audio, param).data, param)
    if part.type == "audio_url":
        param = f"{param}.audio_url"
        return media.audio(_there(part.audio_url, param).url, param)
    if part.type in FILE:
        return _read_file(part, param, media)
    known = ", ".join((*TEXT, *IMAGE, *AUDIO, *FILE))
    raise RequestError(f"There is no content of type {part.type!r} here; there are: {known}.", param=f"{param}.type")


def _read_file(part: ContentPart, param: str, media: Media) -> Part:
    data = part.file.file_data if part.file is not None else part.file_data
    param = f"{param}.file.file_data" if part.type == "file" else f"{param}.file_data"
    url = _there(data, param)
    if url.startswith("data:image/"):
        return media.image(url, param)
    if url.startswith("data:audio/"):
        return media.audio(url, param)
    message = f"{param} must be a data: URL of an image or a recording."
    raise RequestError(message, param=param, code="unsupported_media")


def _there(value: T | None, param: str) -> T:
    if value is None:
        raise RequestError(f"{param} is missing.", param=param, code="missing_input")
    return value
