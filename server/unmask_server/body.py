"""Bytes -> `GenerateRequest`: JSON, or multipart with a `request` field and the files that its parts name."""

import asyncio
import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from unmask_engine.media import MediaLimits, read_audio, read_image
from unmask_engine.request import AudioPart, ImagePart, Part, RequestError, TextPart
from unmask_server.connection import while_connected
from unmask_server.errors import invalid
from unmask_server.remote_media import Fetched, Refusal, RemoteMedia, is_remote
from unmask_server.schema import GenerateRequest
from unmask_server.schema import Part as WirePart
from unmask_server.settings import Settings

JSON_TYPES = ("application/json", "application/x-www-form-urlencoded")  # the latter is what `curl -d` says of JSON
Model = TypeVar("Model", bound=BaseModel)
MAX_FILES = 16  # files of one multipart request
REMOTE = ("http:", "https:", "file:", "ftp:", "s3:")


@dataclass(frozen=True)
class Body:
    request: GenerateRequest
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Media:
    """How the media of a request are read: within limits, and with what has been fetched for it."""

    limits: MediaLimits
    fetched: Fetched = field(default_factory=dict)

    def content(self, text: str, param: str) -> bytes:
        """Of base64, a data: URL or a URL that has been fetched."""
        found = self.fetched.get(text)
        if isinstance(found, Refusal):
            raise found.at(param)
        return decode_base64(text, param) if found is None else found

    def image(self, text: str, param: str) -> ImagePart:
        return read_image(self.content(text, param), self.limits, param=param)

    def audio(self, text: str, param: str) -> AudioPart:
        return read_audio(self.content(text, param), self.limits, param=param)


async def media_for(request: Request, texts: Iterable[str | None]) -> Media:
    """For a request whose media are these: what stands elsewhere is fetched, if the server does that."""
    settings: Settings = request.app.state.settings
    remote: RemoteMedia = request.app.state.remote_media
    urls = [text for text in texts if text is not None and is_remote(text)]
    return Media(settings.media, await while_connected(request, remote.fetched(urls)) if urls else {})


async def read_body(request: Request, max_bytes: int) -> Body:
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_multipart(request, max_bytes)
    if kind in JSON_TYPES or kind.endswith("+json"):
        return Body(_parse(await request.body()), files={})
    raise RequestError(
        "The content type must be application/json or multipart/form-data.",
        param="content-type",
        code="unsupported_media_type",
    )


async def read_json(request: Request, model: type[Model]) -> Model:
    """The body as JSON, whatever the content type says of it."""
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        raise invalid(error) from None


async def read_parts(body: Body, parts: list[WirePart], param: str, media: Media) -> tuple[Part, ...]:
    """Decodes media in a worker thread; `param` is where the parts stand in the request."""

    def read() -> tuple[Part, ...]:
        return tuple(read_part(part, body.files, f"{param}[{i}]", media) for i, part in enumerate(parts))

    if all(part.type == "text" for part in parts):
        return read()  # a thread would cost more than it
    return await asyncio.to_thread(read)


def _parse(text: bytes | str) -> GenerateRequest:
    try:
        return GenerateRequest.model_validate_json(text)
    except ValidationError as error:
        raise invalid(error) from None


async def _read_multipart(request: Request, max_bytes: int) -> Body:
    files: dict[str, bytes] = {}
    text: str | bytes | None = None
    try:
        async with request.form(max_files=MAX_FILES, max_fields=MAX_FILES, max_part_size=max_bytes) as form:
            for name, value in form.multi_items():
                content = value if isinstance(value, str) else await value.read()
                if name in files or (name == "request" and text is not None):
                    raise RequestError(f"The field {name!r} is there more than once.", param=name)
                if name == "request":
                    text = content
                elif isinstance(content, str):
                    message = f"The field {name!r} is not a file; options belong into `request`."
                    raise RequestError(message, param=name)
                else:
                    files[name] = content
    except HTTPException as error:
        raise RequestError(f"The multipart body cannot be read: {error.detail}", code="invalid_multipart") from None
    if text is None:
        raise RequestError("A multipart body needs a field `request` with the JSON of the request.", param="request")
    body = Body(_parse(text), files)
    if unused := sorted(files.keys() - body.request.file_names):
        message = f"No part of the input names the file field {unused[0]!r}; name it in `file` or leave it out."
        raise RequestError(message, param=unused[0], code="unused_file")
    return body


def read_part(part: WirePart, files: Mapping[str, bytes], param: str, media: Media) -> Part:
    """Decodes the media of one part (slow: call it in a worker thread)."""
    if part.type == "text":
        return TextPart(part.text or "")
    data, param = media_bytes(part, files, param, media)
    if part.type == "image":
        return read_image(data, media.limits, param=param)
    return read_audio(data, media.limits, param=param)


def media_bytes(part: WirePart, files: Mapping[str, bytes], param: str, media: Media) -> tuple[bytes, str]:
    """The bytes of an image or a sound, and the name of the field that has them."""
    if part.file is not None:
        if part.file not in files:
            raise RequestError(
                f"{param}.file names the field {part.file!r}, which the multipart body does not have.",
                param=f"{param}.file",
                code="missing_file",
            )
        return files[part.file], f"{param}.file"
    return media.content(part.data or "", f"{param}.data"), f"{param}.data"


def decode_base64(text: str, param: str) -> bytes:
    """base64, bare or in a data: URL. Other URLs are refused."""
    if text[:8].lower().startswith(REMOTE):
        message = f"{param} is a URL; this server fetches nothing from there. Send base64 or a data: URL."
        raise RequestError(message, param=param, code="remote_media_refused")
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise RequestError(f"{param} must be a base64 data: URL.", param=param, code="invalid_base64")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"{param} is not valid base64.", param=param, code="invalid_base64") from None
