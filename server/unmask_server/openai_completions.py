"""`POST /v1/completions`: a text as the user's message; with `suffix` the gap between the two is filled in."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, Field

from unmask_engine.request import (
    MAX_CANVAS_TOKENS,
    Edit,
    Generation,
    GenerationRequest,
    Progress,
    RequestError,
    TextPart,
)
from unmask_server.body import read_json
from unmask_server.direct_route import DirectRoute
from unmask_server.engine_client import Event, Finished, Wants
from unmask_server.models import check_model
from unmask_server.openai_call import followed, whole
from unmask_server.openai_chat_answer import finish_reason, usage
from unmask_server.openai_text import TextStream, logprobs, stopped
from unmask_server.openai_wire import OpenAIRequest, Stops, TopLogprobs, check_logprobs, refuse
from unmask_server.schema import Text
from unmask_server.sse import DONE, event, sse_response

router = APIRouter(route_class=DirectRoute)

NAMES: Final = {"input": "prompt", "edit.target": "prompt", "edit.target.text": "prompt"}
NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
}
GAP: Final = 16  # tokens between prompt and suffix, where `max_tokens` does not say; OpenAI's default
FILL_IN: Final = "Complete the text."  # the user's message of an infill


class CompletionRequest(OpenAIRequest):
    prompt: Annotated[
        Text,
        BeforeValidator(
            lambda value: value[0] if isinstance(value, list) and len(value) == 1 else value,
            json_schema_input_type=str | list[str],
        ),
    ]
    suffix: Text = ""
    stop: Stops = Field(default=[])
    logprobs: TopLogprobs | None = None


@dataclass(frozen=True)
class Completion:
    """What stays the same over an answer."""

    model: str
    prompt: str
    suffix: str
    stops: tuple[str, ...]
    top_logprobs: int | None
    include_usage: bool
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def text(self, generation: Generation) -> str:
        """What stands between prompt and suffix, which an infill's answer holds unchanged."""
        text = generation.text or ""
        if self.suffix:
            text = text[len(self.prompt) : len(text) - len(self.suffix)]
        return stopped(text, self.stops)

    def body(self, text: str, reason: str | None, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": logprobs}
        return self.head | {"choices": [choice]}

    @property
    def head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}

    def logprobs(self, generation: Generation) -> dict[str, Any] | None:
        if self.top_logprobs is None:
            return None
        entries = list(logprobs(generation.text_tokens, self.text(generation), self.top_logprobs))
        tokens = [entry["token"] for entry in entries]
        return {
            "tokens": tokens,
            "token_logprobs": [entry["logprob"] for entry in entries],
            "top_logprobs": [{e["token"]: e["logprob"]} for e in entries] if self.top_logprobs else None,
            "text_offset": [len("".join(tokens[:i])) for i in range(len(tokens))],
        }


@router.post("/v1/completions", response_model=None)
async def completions(request: Request) -> Response:
    """As OpenAI's, with the native decoding options as further fields; docs/api.md says what differs."""
    wire = await read_json(request, CompletionRequest)
    model = check_model(wire.model, request)
    refuse(wire, NEUTRAL)
    check_logprobs(wire, wire.logprobs is not None)
    work = _infill(wire) if wire.suffix else _continuation(wire)
    told = Completion(
        model, wire.prompt, wire.suffix, tuple(wire.stop), wire.logprobs, wire.stream_options.include_usage
    )
    if wire.stream:
        events = await followed(request, work, Wants(progress=not wire.suffix), NAMES)
        return sse_response(_frames(told, events))
    generation = await whole(request, work, NAMES)
    body = told.body(told.text(generation), finish_reason(generation), told.logprobs(generation))
    return JSONResponse(body | {"usage": usage(generation)})


def _continuation(wire: CompletionRequest) -> GenerationRequest:
    parts = (TextPart(wire.prompt),)
    return GenerationRequest(parts, ("text",), wire.task, decoding=wire.decoding(wire.max_tokens))


def _infill(wire: CompletionRequest) -> GenerationRequest:
    for name, text in (("prompt", wire.prompt), ("suffix", wire.suffix)):
        if "[MASK" in text:
            message = f"With a suffix, {name} may not hold [MASK: it marks a gap. `edit` of /v1/generate fills several."
            raise RequestError(message, param=name, code="hole_invalid")
    if wire.logprobs is not None:
        raise RequestError("suffix does not go with logprobs.", param="logprobs", code="not_supported")
    num_tokens = GAP if wire.max_tokens is None else min(wire.max_tokens, MAX_CANVAS_TOKENS)
    if num_tokens < 1:
        raise RequestError(f"max_tokens must be at least 1, not {num_tokens}.", param="max_tokens")
    target = TextPart(f"{wire.prompt}[MASK:{num_tokens}]{wire.suffix}")
    return GenerationRequest(
        (TextPart(FILL_IN),), ("text",), wire.task, decoding=wire.decoding(None), edit=Edit(target)
    )


async def _frames(told: Completion, events: AsyncGenerator[Event]) -> AsyncGenerator[bytes]:
    nothing = {"usage": None} if told.include_usage else {}
    text = TextStream(told.stops)
    async with aclosing(events):
        async for happened in events:
            if isinstance(happened, Progress) and (new := text.feed(happened.text or "")):
                yield event(told.body(new, None) | nothing)
            elif isinstance(happened, Finished):
                generation = happened.generation
                new = text.feed(told.text(generation), final=True)
                yield event(told.body(new, finish_reason(generation), told.logprobs(generation)) | nothing)
                if told.include_usage:
                    yield event(told.head | {"choices": [], "usage": usage(generation)})
    yield DONE
