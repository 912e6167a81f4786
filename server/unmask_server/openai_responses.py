"""`POST /v1/responses`: text and pictures in, text out. Nothing is stored: a dialogue is sent as a whole."""

from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from unmask_engine.request import GenerationRequest, RequestError
from unmask_server.body import media_for, read_json
from unmask_server.dialogue import Dialogue
from unmask_server.direct_route import DirectRoute
from unmask_server.engine_client import Wants
from unmask_server.models import check_model
from unmask_server.openai_call import followed, in_media_slot, whole
from unmask_server.openai_dialogue import read_dialogue
from unmask_server.openai_json import template_for
from unmask_server.openai_responses_answer import Told
from unmask_server.openai_responses_schema import NEUTRAL, ResponsesRequest
from unmask_server.openai_responses_stream import ResponseStream
from unmask_server.openai_wire import check_logprobs, refuse
from unmask_server.sse import sse_response

router = APIRouter(route_class=DirectRoute)
NAMES: Final = {"max_tokens": "max_output_tokens"}


@router.post("/v1/responses", response_model=None)
async def responses(request: Request) -> Response:
    """As OpenAI's, with the native decoding options as further fields; docs/api.md says what differs."""
    wire = await read_json(request, ResponsesRequest)
    told = Told(wire, check_model(wire.model, request))
    _check(wire)
    template = template_for(wire.text.format.type, wire.text.format.json_schema, "text.format")
    media = await media_for(request, (url for message in wire.input for url in message.urls))
    dialogue = await in_media_slot(request, lambda: read_dialogue(wire.input, "input", media, {}))
    work = _work(wire, dialogue) if template is None else template.asked(_work(wire, dialogue))
    if wire.stream:
        events = await followed(request, work, Wants(progress=True), NAMES)
        if template is not None:
            events = template.answered_events(events)
        return sse_response(ResponseStream(told).frames(events))
    generation = await whole(request, work, NAMES)
    return JSONResponse(told.finished(generation if template is None else template.answered(generation)))


def _check(wire: ResponsesRequest) -> None:
    refuse(wire, NEUTRAL)
    check_logprobs(wire, wire.wants_logprobs)
    if wire.previous_response_id is not None:
        message = "This server keeps no responses; send the whole dialogue in `input`."
        raise RequestError(message, param="previous_response_id", code="previous_response_not_found")
    if wire.text.format.type != "text" and wire.wants_logprobs:
        raise RequestError("JSON does not go with logprobs.", param="text.format", code="not_supported")


def _work(wire: ResponsesRequest, dialogue: Dialogue) -> GenerationRequest:
    instructions = [text for text in (wire.instructions, dialogue.instructions) if text]
    bound = wire.max_output_tokens if wire.max_output_tokens is not None else wire.max_tokens
    return GenerationRequest(
        parts=dialogue.parts,
        outputs=("text",),
        task=wire.task,
        instructions="\n".join(instructions) or None,
        decoding=wire.decoding(bound),
        history=dialogue.history,
    )
