"""A spoken dialogue over /v1/realtime (the OpenAI Realtime protocol): recordings in, replies out."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import websockets.asyncio.client
import websockets.sync.client
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from unmask_client.connection import Connection
from unmask_client.errors import APIConnectionError, APITimeoutError, UnmaskError, error_of_answer, error_of_envelope
from unmask_client.generation import Part
from unmask_client.media import Audio, Image
from unmask_client.retry import wait_before_retry

SAMPLE_RATE = 24_000  # the protocol's only rate for PCM
FRAME_BYTES = 2 * SAMPLE_RATE // 10  # 100 ms of s16le
SOCKET_OPTIONS: Mapping[str, Any] = {"max_size": None, "compression": None}  # base64 audio does not compress

RealtimeEvent: TypeAlias = Mapping[str, Any]  # as the protocol has it; "type" says which


@dataclass(frozen=True)
class Reply:
    """What the model said; `audio` is None in a session of text."""

    text: str
    audio: Audio | None


class RealtimeSession:
    """Made by Client.realtime."""

    def __init__(self, socket: websockets.sync.client.ClientConnection, timeout: float) -> None:
        self._socket = socket
        self._timeout = timeout

    def ask(self, *parts: Part) -> Reply:
        """One turn, for sessions without turn detection: says `parts`, waits for the whole reply."""
        for event in turn_events(parts):
            self._tell(event)
        collector = ReplyCollector()
        for event in self.events():
            if (reply := collector.take(event)) is not None:
                return reply
        raise APIConnectionError("the server ended the session in the middle of a reply")

    def append(self, pcm: bytes) -> None:
        """The next piece from a microphone: s16le mono at SAMPLE_RATE."""
        self.send("input_audio_buffer.append", audio=base64.b64encode(pcm).decode())

    def send(self, type: str, **fields: Any) -> None:
        """Any event of the protocol."""
        self._tell({"type": type, **fields})

    def events(self) -> Iterator[RealtimeEvent]:
        """What the server sends, until it ends the session."""
        while True:
            try:
                text = self._socket.recv(self._timeout)
            except ConnectionClosed:
                return
            except TimeoutError as error:
                raise _as_ours(error) from error
            yield json.loads(text)

    def _tell(self, event: RealtimeEvent) -> None:
        try:
            self._socket.send(json.dumps(event))
        except ConnectionClosed as error:
            raise _as_ours(error) from error


class AsyncRealtimeSession:
    """Made by AsyncClient.realtime."""

    def __init__(self, socket: websockets.asyncio.client.ClientConnection, timeout: float) -> None:
        self._socket = socket
        self._timeout = timeout

    async def ask(self, *parts: Part) -> Reply:
        """One turn, for sessions without turn detection: says `parts`, waits for the whole reply."""
        for event in turn_events(parts):
            await self._tell(event)
        collector = ReplyCollector()
        async for event in self.events():
            if (reply := collector.take(event)) is not None:
                return reply
        raise APIConnectionError("the server ended the session in the middle of a reply")

    async def append(self, pcm: bytes) -> None:
        """The next piece from a microphone: s16le mono at SAMPLE_RATE."""
        await self.send("input_audio_buffer.append", audio=base64.b64encode(pcm).decode())

    async def send(self, type: str, **fields: Any) -> None:
        """Any event of the protocol."""
        await self._tell({"type": type, **fields})

    async def events(self) -> AsyncIterator[RealtimeEvent]:
        """What the server sends, until it ends the session."""
        while True:
            try:
                text = await asyncio.wait_for(self._socket.recv(), self._timeout)
            except ConnectionClosed:
                return
            except TimeoutError as error:
                raise _as_ours(error) from error
            yield json.loads(text)

    async def _tell(self, event: RealtimeEvent) -> None:
        try:
            await self._socket.send(json.dumps(event))
        except ConnectionClosed as error:
            raise _as_ours(error) from error


@contextmanager
def open_session(connection: Connection, model: str | None) -> Iterator[RealtimeSession]:
    socket = _connected(connection, connection.realtime_url(model))
    with socket:
        yield RealtimeSession(socket, connection.timeout)


@asynccontextmanager
async def open_async_session(connection: Connection, model: str | None) -> AsyncIterator[AsyncRealtimeSession]:
    socket = await _async_connected(connection, connection.realtime_url(model))
    async with socket:
        yield AsyncRealtimeSession(socket, connection.timeout)


def _connected(connection: Connection, url: str) -> websockets.sync.client.ClientConnection:
    attempt = 0
    while True:
        try:
            return websockets.sync.client.connect(url, additional_headers=connection.headers, **SOCKET_OPTIONS)
        except (OSError, WebSocketException) as error:
            wait = _wait_before_retry(error, attempt, connection.max_retries)
        time.sleep(wait)
        attempt += 1


async def _async_connected(connection: Connection, url: str) -> websockets.asyncio.client.ClientConnection:
    attempt = 0
    while True:
        try:
            return await websockets.asyncio.client.connect(url, additional_headers=connection.headers, **SOCKET_OPTIONS)
        except (OSError, WebSocketException) as error:
            wait = _wait_before_retry(error, attempt, connection.max_retries)
        await asyncio.sleep(wait)
        attempt += 1


def _wait_before_retry(error: OSError | WebSocketException, attempt: int, max_retries: int) -> float:
    """Seconds; raises what is wrong where trying again is of no use."""
    wait: float | None = None
    if isinstance(error, InvalidStatus):
        wait = wait_before_retry(attempt, error.response.status_code, error.response.headers)
    elif isinstance(error, OSError) and not isinstance(error, TimeoutError):
        wait = wait_before_retry(attempt)
    if wait is None or attempt >= max_retries:
        raise _as_ours(error) from error
    return wait


def session_settings(instructions: str, output: Literal["audio", "text"], turn_detection: bool) -> Mapping[str, Any]:
    detection = {"type": "server_vad"} if turn_detection else None
    audio = {"input": {"turn_detection": detection}}
    return {"type": "realtime", "instructions": instructions, "output_modalities": [output], "audio": audio}


def turn_events(parts: tuple[Part, ...]) -> Iterator[RealtimeEvent]:
    """One turn and the request for a reply: a lone recording through the input buffer, anything else as one message.

    The model answers one message, so what belongs together must be one.
    """
    if len(parts) == 1 and isinstance(parts[0], Audio):
        pcm = parts[0].pcm16(SAMPLE_RATE)
        for start in range(0, len(pcm), FRAME_BYTES):
            yield {"type": "input_audio_buffer.append", "audio": _base64(pcm[start : start + FRAME_BYTES])}
        yield {"type": "input_audio_buffer.commit"}
    elif parts:
        item = {"type": "message", "role": "user", "content": [_content(part) for part in parts]}
        yield {"type": "conversation.item.create", "item": item}
    yield {"type": "response.create"}


def _content(part: Part) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "input_text", "text": part}
    if isinstance(part, Image):
        return {"type": "input_image", "image_url": f"data:image/{part.format};base64,{_base64(part.data)}"}
    return {"type": "input_audio", "audio": _base64(part.pcm16(SAMPLE_RATE))}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class ReplyCollector:
    """Gathers a reply out of the events of a session."""

    def __init__(self) -> None:
        self._text = ""
        self._pcm = b""

    def take(self, event: RealtimeEvent) -> Reply | None:
        """The reply once it is complete. Raises what the server reports."""
        match event["type"]:
            case "response.output_text.delta" | "response.output_audio_transcript.delta":
                self._text += event["delta"]
            case "response.output_audio.delta":
                self._pcm += base64.b64decode(event["delta"])
            case "response.done":
                details = event["response"].get("status_details") or {}
                if event["response"]["status"] == "failed":
                    raise error_of_envelope(details, status=None, request_id=None)
                audio = Audio(self._pcm, "pcm", SAMPLE_RATE, len(self._pcm) / 2 / SAMPLE_RATE, self._text)
                return Reply(self._text, audio if self._pcm else None)
            case "error":
                raise error_of_envelope(event, status=None, request_id=None)
        return None


def _as_ours(error: OSError | WebSocketException) -> UnmaskError:
    if isinstance(error, InvalidStatus):
        response = error.response
        return error_of_answer(response.status_code, response.headers, bytes(response.body or b""))
    kind = APITimeoutError if isinstance(error, TimeoutError) else APIConnectionError
    return kind(f"the realtime session broke: {error or type(error).__name__}")
