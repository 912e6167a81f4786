"""`POST /v1/chat/completions`: OpenAI's chat as a native request."""

from collections.abc import AsyncGenerator
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from unmask_engine.request import GenerationRequest, RequestError
from unmask_server.body import media_for, read_json
from unmask_server.dialogue import Dialogue
from unmask_server.direct_route import DirectRoute
from unmask_server.engine_client import Event, Finished
from unmask_server.models import check_model
from unmask_server.openai_call import followed, in_media_slot, whole
from unmask_server.openai_chat_answer import Reply, completion
from unmask_server.openai_chat_schema import NEUTRAL, ChatRequest
from unmask_server.openai_chat_stream import ChatStream
from unmask_server.openai_dialogue import read_dialogue
from unmask_server.openai_json import template_for
from unmask_server.openai_voices import check_voice
from unmask_server.openai_wire import check_logprobs, refuse
from unmask_server.spoken_replies import SpokenReplies
from unmask_server.sse import sse_response

router = APIRouter(route_class=DirectRoute)
NAMES: Final = {"input": "messages", "output": "modalities", "max_tokens": "max_completion_tokens"}


@router.post("/v1/chat/completions", response_model=None)
async def chat_completions(request: Request) -> Response:
    """As OpenAI's, with the native decoding options as further fields; docs/api.md says what differs."""
    wire = await read_json(request, ChatRequest)
    model = check_model(wire.model, request)
    _check(wire)
    spoken: SpokenReplies = request.app.state.spoken_replies
    wanted = wire.response_format
    template = template_for(wanted.type, wanted.json_schema.json_schema, "response_format.json_schema")
    media = await media_for(request, (url for message in wire.messages for url in message.urls))
    dialogue = await in_media_slot(request, lambda: read_dialogue(wire.messages, "messages", media, spoken))
    work = _work(wire, dialogue) if template is None else template.asked(_work(wire, dialogue))
    reply = Reply(
        model=model,
        modalities=frozenset(wire.outputs),
        audio_format=wire.audio.format or "wav",
        stops=tuple(wire.stop),
        top_logprobs=wire.top_logprobs if wire.logprobs else None,
    )
    if wire.stream:
        stream = ChatStream(reply, wire.stream_options.include_usage)
        events = await followed(request, work, stream.wants, NAMES)
        if template is not None:
            events = template.answered_events(events)
        if "audio" in wire.outputs:
            events = _remembered(events, reply, spoken)
        return sse_response(stream.frames(events))
    generation = await whole(request, work, NAMES)
    if template is not None:
        generation = template.answered(generation)
    if "audio" in wire.outputs:
        spoken.keep(reply.audio_id, generation.text or "")
    return JSONResponse(await in_media_slot(request, lambda: completion(reply, generation)))


def _check(wire: ChatRequest) -> None:
    refuse(wire, NEUTRAL)
    check_logprobs(wire, wire.logprobs)
    if wire.response_format.type != "text" and (wire.stop or wire.logprobs or wire.outputs != ("text",)):
        message = "JSON goes with the modality text alone, and neither with stop nor with logprobs."
        raise RequestError(message, param="response_format", code="not_supported")
    speaks = "audio" in wire.outputs
    if speaks:
        check_voice(wire.audio.voice, "audio.voice")
    if wire.stream and speaks and wire.audio.format not in (None, "pcm16"):
        raise RequestError(
            f"Unsupported value: 'audio.format' does not support {wire.audio.format!r} when stream=true. "
            "Supported values are: 'pcm16'.",
            param="audio.format",
            code="unsupported_value",
        )
    if wire.stop and speaks:
        raise RequestError("stop cannot cut speech; leave it out.", param="stop", code="not_supported")
    if None not in (wire.max_tokens, wire.max_completion_tokens) and wire.max_tokens != wire.max_completion_tokens:
        message = "Give one of `max_tokens` and `max_completion_tokens`; they are the same."
        raise RequestError(message, param="max_tokens")


def _work(wire: ChatRequest, dialogue: Dialogue) -> GenerationRequest:
    bound = wire.max_completion_tokens if wire.max_completion_tokens is not None else wire.max_tokens
    return GenerationRequest(
        parts=dialogue.parts,
        outputs=wire.outputs,
        task=wire.task,
        instructions=dialogue.instructions,
        decoding=wire.decoding(bound),
        history=dialogue.history,
    )


async def _remembered(events: AsyncGenerator[Event], reply: Reply, spoken: SpokenReplies) -> AsyncGenerator[Event]:
    try:
        async for event in events:
            if isinstance(event, Finished):
                spoken.keep(reply.audio_id, event.generation.text or "")
            yield event
    finally:
        await events.aclose()
