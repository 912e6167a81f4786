"""`unmask realtime`: speaks a recording to a server as a microphone would, and keeps what is said back."""

import asyncio
import base64
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from unmask_engine.media import MediaLimits, read_audio, resample, write_audio
from unmask_engine.request import AudioPart
from unmask_server.commands.exits import CommandError, UsageError
from unmask_server.realtime.audio import PCM_RATE as RATE
from unmask_server.realtime.audio import as_float

CHUNK_S: Final = 0.04
PATIENCE_S: Final = 30.0  # with a server that is silent after the recording


@dataclass
class Turn:
    """What came back; times are those of `time.perf_counter()`."""

    said: str = ""
    speech: list[bytes] = field(default_factory=list)
    sent_at: float = 0.0  # the end of the recording
    stopped_at: float = 0.0  # the server knows that the user has finished
    first_audio_at: float = 0.0
    done_at: float = 0.0

    @property
    def seconds(self) -> float:
        return sum(map(len, self.speech)) / 2 / RATE

    @property
    def first_audio_ms(self) -> float:
        """From the end of the silence that ends a turn."""
        return 1000 * (self.first_audio_at - self.stopped_at)

    @property
    def real_time_factor(self) -> float:
        """Above 1 the speech arrives slower than it is played."""
        return (self.done_at - self.stopped_at) / self.seconds


def realtime(file: Path, *, url: str, api_key: str | None, output: Path | None) -> None:
    turn = asyncio.run(_talk(_recording(file), url, api_key))
    print(f"said: {turn.said}")
    if not turn.speech:
        raise CommandError("the server answered without speech")
    print(f"end of turn to first sound: {turn.first_audio_ms:.0f} ms")
    print(f"end of recording to first sound: {1000 * (turn.first_audio_at - turn.sent_at):.0f} ms")
    print(f"real-time factor: {turn.real_time_factor:.2f} ({turn.seconds:.2f} s of speech)")
    if output is not None:
        samples = np.frombuffer(b"".join(turn.speech), "<i2").astype(np.int16)
        output.write_bytes(write_audio(AudioPart(as_float(samples), RATE), "wav"))


async def speak(socket: ClientConnection, samples: NDArray[np.int16]) -> Turn:
    """One turn of a session that is open: in real time, then silence until the answer is complete."""
    turn = Turn()
    microphone = asyncio.create_task(_microphone(socket, samples, turn))
    try:
        while not turn.done_at:
            async with asyncio.timeout(len(samples) / RATE + PATIENCE_S):
                _note(turn, json.loads(await socket.recv()))
    finally:
        microphone.cancel()
    return turn


async def _talk(samples: NDArray[np.int16], url: str, api_key: str | None) -> Turn:
    address = url.rstrip("/").replace("http", "ws", 1) + "/v1/realtime?model=default"
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        async with connect(address, additional_headers=headers, max_size=None) as socket:
            return await speak(socket, samples)
    except InvalidStatus as error:
        raise CommandError(f"{url} refused: {_reason(error)}") from None
    except (OSError, WebSocketException) as error:
        raise CommandError(f"{url}: {error}") from None
    except TimeoutError:
        raise CommandError(f"{url} did not answer within {PATIENCE_S:g} s; was there speech in the file?") from None


async def _microphone(socket: ClientConnection, samples: NDArray[np.int16], turn: Turn) -> None:
    size = int(CHUNK_S * RATE)
    started = time.perf_counter()
    at = 0
    while True:
        chunk = samples[at : at + size] if at < len(samples) else np.zeros(size, np.int16)
        data = base64.b64encode(chunk.astype("<i2").tobytes()).decode()
        at += len(chunk)
        await asyncio.sleep(started + at / RATE - time.perf_counter())  # a microphone has no sound before its time
        await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": data}))
        if not turn.sent_at and at >= len(samples):
            turn.sent_at = time.perf_counter()


def _note(turn: Turn, event: dict[str, Any]) -> None:
    match event["type"]:
        case "input_audio_buffer.speech_stopped":
            turn.stopped_at = time.perf_counter()
        case "response.created":
            turn.said, turn.speech, turn.first_audio_at = "", [], 0.0
        case "response.output_audio_transcript.delta":
            turn.said += event["delta"]
        case "response.output_audio.delta":
            turn.first_audio_at = turn.first_audio_at or time.perf_counter()
            turn.speech.append(base64.b64decode(event["delta"]))
        case "response.done":
            if event["response"]["status"] == "failed":
                raise CommandError(event["response"]["status_details"]["error"]["message"])
            if event["response"]["status"] != "cancelled":  # the recording goes on
                turn.done_at = time.perf_counter()
        case "error":
            raise CommandError(event["error"]["message"])


def _recording(file: Path) -> NDArray[np.int16]:
    limits = MediaLimits()
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    audio = resample(read_audio(data, limits, param=str(file)), RATE)
    return np.rint(audio.samples * 32767).clip(-32768, 32767).astype(np.int16)


def _reason(error: InvalidStatus) -> str:
    try:
        return str(json.loads(error.response.body or b"")["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.response.status_code}"
