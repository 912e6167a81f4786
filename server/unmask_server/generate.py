"""`POST /v1/generate`: any input to any output."""

import asyncio
import json
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from unmask_engine.media import MediaLimits
from unmask_engine.request import Decoding, GenerationRequest, RequestError
from unmask_server.answer import Raw, answer, raw_wanted, with_formats
from unmask_server.body import Body, read_body, read_parts
from unmask_server.bridge import EngineThread
from unmask_server.errors import CLIENT_LEFT, ServerError
from unmask_server.schema import ErrorAnswer, GenerateAnswer, GenerateRequest, Output
from unmask_server.settings import Settings

router = APIRouter()
T = TypeVar("T")
MAX_WARNED = 8  # unknown fields the warning header lists

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 404, 405, 413, 415, 500, 503)
}


@router.post("/v1/generate", response_model=GenerateAnswer, responses=ERRORS)
async def generate(request: Request) -> Response:
    """Generate text, speech or an image from any mix of text, speech and images.

    The body is JSON (`GenerateRequest`), or multipart with that JSON in the field `request` and media in file fields.
    With `Accept: image/*` or `audio/*` and exactly one such output the answer is the bare bytes.
    """
    started = time.perf_counter()
    settings: Settings = request.app.state.settings
    bridge: EngineThread = request.app.state.bridge
    name = bridge.engine.name
    raw = raw_wanted(request.headers.get("accept", ""))
    body = await read_body(request, settings.max_body_bytes)
    wire = body.request
    _refuse_unsupported(wire)
    if wire.model not in (None, name):
        message = f"There is no model {wire.model!r} here; this server has: {name}."
        raise RequestError(message, param="model", code="model_not_found")
    outputs = with_formats(_outputs(wire, raw), raw)
    media_slots: asyncio.Semaphore = request.app.state.media_slots
    async with media_slots:
        work = await _engine_request(body, outputs, settings.media)
    finished = await _while_connected(request, bridge.generate(work))
    async with media_slots:
        response = await asyncio.to_thread(
            answer, finished, outputs, model=name, extras=wire.extras, raw=raw, started=started
        )
    if wire.unknown_fields:
        response.headers["x-unmask-warning"] = _warning(wire.unknown_fields)
    return response


def _refuse_unsupported(wire: GenerateRequest) -> None:
    """What the wire format has but this version does not do; each message names what works instead."""
    refused = {
        "stream": (
            wire.stream,
            "streaming is not supported yet; leave `stream` out and the whole answer comes at once",
        ),
        "edit": (wire.edit is not None, "editing is not supported yet; leave `edit` out"),
        "preview": (
            wire.preview.every_steps > 0 or wire.preview.confidence,
            "previews come with streaming, which is not supported yet",
        ),
        "return": (
            "word_timestamps" in wire.extras,
            "of `return` this version knows timings, tokens and confidence",
        ),
    }
    for param, (given, message) in refused.items():
        if given:
            raise RequestError(f"{param}: {message}.", param=param, code="not_supported")


def _outputs(wire: GenerateRequest, raw: Raw | None) -> list[Output]:
    """What is asked for; empty where a named task decides."""
    if wire.output is None:
        if raw is not None:
            return [Output(type=raw.modality)]
        return [Output(type="text")] if wire.task == "auto" else []
    names = [output.type for output in wire.output]
    if not names or len(set(names)) != len(names):
        raise RequestError("output must list text, audio and image, each at most once, at least one.", param="output")
    return wire.output


async def _engine_request(body: Body, outputs: list[Output], limits: MediaLimits) -> GenerationRequest:
    wire = body.request
    if (wire.input is None) == (wire.messages is None):
        raise RequestError("Give exactly one of `input` and `messages`.", param="input", code="missing_input")
    instructions, parts, param = wire.instructions, wire.input or [], "input"
    if wire.messages is not None:
        roles = [message.role for message in wire.messages]
        if roles not in (["user"], ["system", "user"]):
            raise RequestError(
                "messages may hold one user message, after one system message or none; longer dialogues are not "
                "supported yet.",
                param="messages",
                code="not_supported",
            )
        parts, param = wire.messages[-1].content, f"messages[{len(roles) - 1}].content"
        if len(roles) == 2:
            instructions = _system_text(wire)
    if not parts:
        raise RequestError(f"{param} is empty; give at least one part.", param=param, code="missing_input")
    options = wire.decoding.model_dump()
    return GenerationRequest(
        parts=await read_parts(body, parts, param, limits),
        outputs=tuple(output.type for output in outputs),
        task=wire.task,
        instructions=instructions,
        decoding=Decoding(**options),
    )


def _system_text(wire: GenerateRequest) -> str:
    assert wire.messages is not None
    texts = [part.text for part in wire.messages[0].content]
    if wire.instructions is not None or None in texts:
        message = "Give the instructions once, as text: in `instructions` or in the system message."
        raise RequestError(message, param="messages[0].content")
    return "\n".join(text for text in texts if text)


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Runs `work`, and cancels it when the client goes away."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ServerError(CLIENT_LEFT, "The client closed the connection.", "client_closed")
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _warning(fields: tuple[str, ...]) -> str:
    # json.dumps escapes what a header cannot carry.
    names = ", ".join(json.dumps(name[:64]) for name in fields[:MAX_WARNED])
    return f"ignored unknown fields: {names}" + (", ..." if len(fields) > MAX_WARNED else "")
