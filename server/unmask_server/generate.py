"""`POST /v1/generate`: any input to any output."""

import asyncio
import json
import time
from functools import lru_cache, partial

from fastapi import APIRouter, Request, Response

from unmask_engine.request import Decoding, GenerationRequest, Modality, RequestError
from unmask_server.answer import MODALITIES, Raw, answer, raw_wanted, with_formats
from unmask_server.body import Body, Media, media_for, read_body, read_parts
from unmask_server.connection import while_connected
from unmask_server.dialogue import Dialogue, read_messages
from unmask_server.direct_route import DirectRoute
from unmask_server.edit import read_edit
from unmask_server.engine_client import EngineClient
from unmask_server.generate_stream import Telling
from unmask_server.models import check_model
from unmask_server.schema import DecodingOptions, GenerateAnswer, GenerateRequest, Output, Preview
from unmask_server.settings import Settings
from unmask_server.sse import begun, sse_response

router = APIRouter(route_class=DirectRoute)
NO_PREVIEW = Preview()
MAX_WARNED = 8  # unknown fields the warning header lists


@router.post("/v1/generate", response_model=GenerateAnswer)
async def generate(request: Request) -> Response:
    """Generate text, speech or an image from any mix of text, speech and images.

    The body is JSON (`GenerateRequest`), or multipart with that JSON in the field `request` and media in file fields.
    With `Accept: image/*` or `audio/*` and exactly one such output the answer is the bare bytes; with `stream` it comes
    as server-sent events.
    """
    started = time.perf_counter()
    settings: Settings = request.app.state.settings
    bridge: EngineClient = request.app.state.bridge
    raw = raw_wanted(request.headers.get("accept", ""))
    body = await read_body(request, settings.max_body_bytes)
    wire = body.request
    _refuse_unsupported(wire, raw)
    name = check_model(wire.model, request)
    outputs = with_formats(_outputs(wire, raw), raw)
    media_slots: asyncio.Semaphore = request.app.state.media_slots
    media = await media_for(request, (part.data for part in wire.parts))
    async with media_slots:
        work = await _engine_request(body, outputs, media)
    if wire.stream:
        telling = Telling(wire, outputs, name, started, work.picture_edit)
        events = await while_connected(request, begun(bridge.stream(work, telling.wants)))
        response: Response = sse_response(telling.frames(events, media_slots))
    else:
        finished = await while_connected(request, bridge.generate(work))
        finish = partial(answer, finished, outputs, model=name, extras=wire.extras, raw=raw, started=started)
        if finished.generation.audio is None and finished.generation.image is None:
            response = finish()  # nothing to encode: a thread would cost more than it
        else:
            async with media_slots:
                response = await asyncio.to_thread(finish)
    if wire.unknown_fields:
        response.headers["x-unmask-warning"] = _warning(wire.unknown_fields)
    return response


def _refuse_unsupported(wire: GenerateRequest, raw: Raw | None) -> None:
    """What this version does not do, or what does not go together; each message names what works instead."""
    preview = wire.preview
    refused = {
        "stream": (
            wire.stream and raw is not None,
            "events are not bare bytes; leave out `stream`, or the Accept header",
        ),
        "preview": (
            not wire.stream and preview != NO_PREVIEW,
            "previews come with streaming; set `stream`, or leave `preview` out",
        ),
        "preview.confidence": (
            preview.confidence and not preview.every_steps,
            "confidence comes with the tokens; set `preview.every_steps`",
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
        if wire.task != "auto" and len(wire.edits) < 2:
            return []
        usual: list[Modality] = [edit.target.type for edit in wire.edits] or ["text"]
        return [Output(type=kind) for kind in MODALITIES if kind in usual]
    names = [output.type for output in wire.output]
    if not names or len(set(names)) != len(names):
        raise RequestError("output must list text, audio and image, each at most once, at least one.", param="output")
    return wire.output


async def _engine_request(body: Body, outputs: list[Output], media: Media) -> GenerationRequest:
    wire = body.request
    dialogue = await _dialogue(body, media)
    return GenerationRequest(
        parts=dialogue.parts,
        outputs=tuple(output.type for output in outputs),
        task=wire.task,
        instructions=dialogue.instructions,
        decoding=_decoding(wire.decoding),
        history=dialogue.history,
        edit=await asyncio.to_thread(read_edit, body, media) if wire.edits else None,  # a thread would cost more
        word_times="word_timestamps" in wire.extras,
    )


@lru_cache(maxsize=64)  # most callers send the same again
def _decoding(options: DecodingOptions) -> Decoding:
    return Decoding(**options.model_dump())


async def _dialogue(body: Body, media: Media) -> Dialogue:
    wire = body.request
    if wire.input is None and wire.messages is None and len(wire.edits) > 1:
        return Dialogue((), wire.instructions)  # the targets speak for each other
    if (wire.input is None) == (wire.messages is None):
        raise RequestError("Give exactly one of `input` and `messages`.", param="input", code="missing_input")
    if wire.input is None:
        return await read_messages(body, media)
    if not wire.input:
        raise RequestError("input is empty; give at least one part.", param="input", code="missing_input")
    return Dialogue(await read_parts(body, wire.input, "input", media), wire.instructions)


def _warning(fields: tuple[str, ...]) -> str:
    # json.dumps escapes what a header cannot carry.
    names = ", ".join(json.dumps(name[:64]) for name in fields[:MAX_WARNED])
    return f"ignored unknown fields: {names}" + (", ..." if len(fields) > MAX_WARNED else "")
