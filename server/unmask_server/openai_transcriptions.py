"""`POST /v1/audio/transcriptions` and `/v1/audio/translations`, as OpenAI has them.

A recording is heard utterance by utterance, all at once; its segments are the utterances.
"""

import math
import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import accumulate
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from unmask_engine.media import read_audio
from unmask_engine.request import Generation, GenerationRequest, Progress, RequestError
from unmask_engine.utterances import Utterance, utterances
from unmask_server.body import decode_base64, read_json
from unmask_server.connection import while_connected
from unmask_server.direct_route import DirectRoute
from unmask_server.engine_client import EngineClient, Event, Finished, Wants
from unmask_server.fan_out import answers, in_turn
from unmask_server.openai_call import in_media_slot
from unmask_server.openai_form import is_form, read_form
from unmask_server.openai_media_schema import TranscriptionRequest
from unmask_server.openai_text import logprobs
from unmask_server.openai_wire import check_logprobs
from unmask_server.settings import Settings
from unmask_server.sse import begun, event, sse_response
from unmask_server.subtitles import Segment, srt, vtt

router = APIRouter(route_class=DirectRoute)


@router.post("/v1/audio/transcriptions", response_model=None)
async def transcribe(request: Request) -> Response:
    """What is said in a recording: a form with `file`, or JSON with `input_audio.data`."""
    return await _answer(request, "transcribe")


@router.post("/v1/audio/translations", response_model=None)
async def translate(request: Request) -> Response:
    """The same: the model knows one language, so there is nothing to translate from."""
    return await _answer(request, "translate")


async def _answer(request: Request, task: Literal["transcribe", "translate"]) -> Response:
    bridge: EngineClient = request.app.state.bridge
    settings: Settings = request.app.state.settings
    wire, data, param = await _read(request, settings.max_body_bytes)
    _refuse_unsupported(wire)
    check_logprobs(wire, bool(wire.include))
    said = await in_media_slot(request, lambda: utterances(read_audio(data, settings.media, param=param)))
    decoding = wire.decoding(wire.max_tokens)
    word_times = "word" in wire.timestamp_granularities
    works = [
        GenerationRequest((part.audio,), ("text",), wire.task, decoding=decoding, word_times=word_times)
        for part in said
    ]
    names = {"input": param, "return": "timestamp_granularities"}
    if wire.stream:
        frames = _frames(in_turn(bridge, works, Wants(progress=True), names), wire)
        return sse_response(await while_connected(request, begun(frames)))
    heard = await while_connected(request, answers(bridge, works, names))
    if wire.response_format == "json":
        return JSONResponse(_whole(heard, wire))
    if wire.response_format == "verbose_json":
        words = {"words": _words(said, heard)} if word_times else {}
        return JSONResponse(_verbose(said, heard, task, wire.temperature) | words)
    if wire.response_format == "text":
        return PlainTextResponse(_joined(heard) + "\n")
    segments = [Segment(_text(one), part.start, part.end) for part, one in zip(said, heard, strict=True) if _text(one)]
    return PlainTextResponse(srt(segments) if wire.response_format == "srt" else vtt(segments))


async def _read(request: Request, max_bytes: int) -> tuple[TranscriptionRequest, bytes, str]:
    """The request, the recording's bytes, and the field that held them."""
    if is_form(request):
        form = await read_form(request, max_bytes)
        return form.read(TranscriptionRequest), form.file("file"), "file"
    wire = await read_json(request, TranscriptionRequest)
    if wire.input_audio is None:
        message = "There is no recording: send a form with it as `file`, or JSON with base64 in `input_audio.data`."
        raise RequestError(message, param="file", code="missing_file")
    return wire, decode_base64(wire.input_audio.data, "input_audio.data"), "input_audio.data"


def _refuse_unsupported(wire: TranscriptionRequest) -> None:
    refused = {
        "timestamp_granularities": (
            "word" in wire.timestamp_granularities and wire.response_format != "verbose_json",
            "words come with verbose_json; ask for that, or for segments",
        ),
        "include": (
            bool(wire.include) and wire.response_format != "json",
            "logprobs come with json; ask for that, or leave it out",
        ),
        "response_format": (
            wire.stream and wire.response_format not in ("json", "text"),
            f"a stream brings text, not {wire.response_format}; ask for json, or leave `stream` out",
        ),
    }
    for param, (is_asked, message) in refused.items():
        if is_asked:
            raise RequestError(f"{param}: {message}.", param=param, code="not_supported")


async def _frames(events: AsyncGenerator[Event], wire: TranscriptionRequest) -> AsyncGenerator[bytes]:
    heard: list[Generation] = []
    told = ""
    async with aclosing(events):
        async for happened in events:
            if isinstance(happened, Finished):
                heard.append(happened.generation)
                text = _joined(heard)
            elif isinstance(happened, Progress):
                text = " ".join(filter(None, (_joined(heard), (happened.text or "").strip())))
            else:
                continue
            if new := text[len(told) :]:
                yield event({"type": "transcript.text.delta", "delta": new})
                told = text
    yield event({"type": "transcript.text.done", **_whole(heard, wire)})


def _whole(heard: Sequence[Generation], wire: TranscriptionRequest) -> dict[str, Any]:
    body = {"text": _joined(heard), "usage": _usage(heard)}
    return body | {"logprobs": [entry for one in heard for entry in _logprobs(one)]} if wire.include else body


def _logprobs(one: Generation) -> list[dict[str, Any]]:
    return list(logprobs(one.text_tokens, one.text or "", top=0))


def _joined(heard: Sequence[Generation]) -> str:
    return " ".join(filter(None, map(_text, heard)))


def _text(one: Generation) -> str:
    return (one.text or "").strip()


def _usage(heard: Sequence[Generation]) -> dict[str, Any]:
    audio = sum(one.usage.input_tokens.get("audio", 0) for one in heard)
    text = sum(one.usage.input_tokens.get("text", 0) for one in heard)
    output = sum(one.usage.output_tokens.get("text", 0) for one in heard)
    return {
        "type": "tokens",
        "input_tokens": audio + text,
        "input_token_details": {"text_tokens": text, "audio_tokens": audio},
        "output_tokens": output,
        "total_tokens": audio + text + output,
        "steps": _steps(heard),
    }


def _steps(heard: Sequence[Generation]) -> int:
    """Not OpenAI's, as in chats; of all utterances."""
    return sum(one.usage.steps for one in heard)


def _verbose(said: Sequence[Utterance], heard: Sequence[Generation], task: str, temperature: float) -> dict[str, Any]:
    duration = sum(len(part.audio.samples) / part.audio.sample_rate for part in said)
    return {
        "task": task,
        "language": "english",
        "duration": round(duration, 3),
        "text": _joined(heard),
        "segments": [_segment(i, *pair, temperature) for i, pair in enumerate(zip(said, heard, strict=True))],
        "usage": {"type": "duration", "seconds": math.ceil(duration), "steps": _steps(heard)},
    }


def _words(said: Sequence[Utterance], heard: Sequence[Generation]) -> list[dict[str, Any]]:
    """Seconds of the whole recording, which the utterances put together are."""
    lengths = [len(part.audio.samples) / part.audio.sample_rate for part in said]
    starts = [0.0, *accumulate(lengths)]
    return [
        {"word": word.text, "start": round(start + word.start, 3), "end": round(start + word.end, 3)}
        for start, one in zip(starts, heard, strict=False)
        for word in one.words
    ]


def _segment(index: int, part: Utterance, one: Generation, temperature: float) -> dict[str, Any]:
    """In Whisper's shape. Of how sure the model is that somebody speaks it says nothing: `no_speech_prob` is 0."""
    text = _text(one).encode()
    scores = [entry["logprob"] for entry in _logprobs(one)]
    return {
        "id": index,
        "seek": 0,
        "start": part.start,
        "end": part.end,
        "text": _text(one),
        "tokens": [],
        "temperature": temperature,
        "avg_logprob": sum(scores) / len(scores) if scores else 0.0,
        "compression_ratio": len(text) / len(zlib.compress(text)),
        "no_speech_prob": 0.0,
    }
