"""`POST /v1/audio/speech`, as OpenAI has it: the first bytes leave as soon as they are known.

A long text is spoken piece by piece, decoded together and sent in order.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Request, Response

from unmask_engine.audio_stream import AudioWriter
from unmask_engine.media import AudioFormat
from unmask_engine.request import AudioPart, GenerationRequest, RequestError, TextPart, Usage
from unmask_server import aac
from unmask_server.answer import MIME
from unmask_server.body import read_json
from unmask_server.bridge import EngineThread, Event, Finished, Spoken, Wants
from unmask_server.clauses import clauses
from unmask_server.connection import while_connected
from unmask_server.direct_route import DirectRoute
from unmask_server.fan_out import in_turn
from unmask_server.openai_media_schema import SpeechRequest
from unmask_server.openai_voices import check_voice
from unmask_server.sse import ClosingStream, begun, event, sse_response

router = APIRouter(route_class=DirectRoute)


@dataclass(frozen=True)
class Spent:
    """What the whole speech took; comes last."""

    input_tokens: int
    output_tokens: int
    steps: int


@router.post("/v1/audio/speech", response_model=None)
async def speak(request: Request) -> Response:
    """Text to speech: the bytes of an audio file, or server-sent events."""
    bridge: EngineThread = request.app.state.bridge
    wire = await read_json(request, SpeechRequest)
    format = _format(wire)
    pieces = clauses(wire.input, _piece_words(bridge, wire.task))
    if not pieces:
        raise RequestError("input holds nothing to say.", param="input", code="text_empty")
    decoding = wire.decoding(wire.max_tokens)
    works = [GenerationRequest((TextPart(piece),), ("audio",), wire.task, decoding=decoding) for piece in pieces]
    spoken = _written(in_turn(bridge, works, Wants(speech=True), names={}), format)
    sound = await while_connected(request, begun(spoken))
    if wire.stream_format == "sse":
        return sse_response(_frames(sound))
    return ClosingStream(_bytes(sound), media_type=aac.MIME if format == "aac" else MIME[format])


def _piece_words(bridge: EngineThread, task: str) -> int | None:
    """Of the preset that speaks; whether there is one is the engine's business."""
    for preset in bridge.engine.bundle.presets:
        if preset.task == task or (task == "auto" and (preset.inputs, preset.outputs) == (("text",), ("audio",))):
            return preset.piece_words
    return None


def _format(wire: SpeechRequest) -> AudioFormat | Literal["aac"]:
    """Raises RequestError for what would have to sound otherwise than it can."""
    if wire.response_format == "aac" and not aac.is_there():
        message = (
            "aac needs the extra `aac` on this server (pip install 'unmask[aac]'); ask for mp3, opus, flac or wav."
        )
        raise RequestError(message, param="response_format", code="unsupported_format")
    check_voice(wire.voice, "voice")
    if wire.speed != 1.0:
        message = f"speed {wire.speed:g} is not possible: the model speaks at its own speed, which is 1."
        raise RequestError(message, param="speed", code="not_supported")
    return wire.response_format


async def _written(
    events: AsyncGenerator[Event], format: AudioFormat | Literal["aac"]
) -> AsyncGenerator[bytes | Spent]:
    told = 0  # samples of the piece that is being spoken
    usages: list[Usage] = []
    file: AudioWriter | aac.AacWriter = aac.AacWriter() if format == "aac" else AudioWriter(format)
    with file as writer:
        async with aclosing(events):
            async for happened in events:
                if isinstance(happened, Spoken):
                    audio = AudioPart(happened.samples, happened.sample_rate)
                    told += len(audio.samples)
                elif isinstance(happened, Finished) and (whole := happened.generation.audio) is not None:
                    audio = AudioPart(whole.samples[told:], whole.sample_rate)
                    told = 0
                    usages.append(happened.generation.usage)
                else:
                    continue
                if new := await asyncio.to_thread(writer.write, audio):
                    yield new
        yield await asyncio.to_thread(writer.close)
    yield Spent(
        input_tokens=sum(sum(usage.input_tokens.values()) for usage in usages),
        output_tokens=sum(sum(usage.output_tokens.values()) for usage in usages),
        steps=sum(usage.steps for usage in usages),
    )


async def _bytes(sound: AsyncGenerator[bytes | Spent]) -> AsyncGenerator[bytes]:
    async with aclosing(sound):
        async for item in sound:
            if isinstance(item, bytes):
                yield item


async def _frames(sound: AsyncGenerator[bytes | Spent]) -> AsyncGenerator[bytes]:
    async with aclosing(sound):
        async for item in sound:
            if isinstance(item, Spent):
                usage = {"input_tokens": item.input_tokens, "output_tokens": item.output_tokens}
                usage["total_tokens"] = sum(usage.values())
                yield event({"type": "speech.audio.done", "usage": usage | {"steps": item.steps}})
            elif item:
                yield event({"type": "speech.audio.delta", "audio": base64.b64encode(item).decode()})
