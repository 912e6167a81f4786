"""The official client over a real socket; what it gets must pass its own types, strictly."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from unmask_engine.request import ImagePart, TextPart, Turn

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


@pytest.fixture(scope="module")
def api(client: httpx.Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="-", max_retries=0) as api:
        yield api


def respond(api: OpenAI, input: Any = "one two three", **options: Any) -> Response:
    raw = api.responses.with_raw_response.create(model="fake", input=input, **options)
    return Response.model_validate_json(raw.text, strict=True)


def stream(api: OpenAI, input: Any = "one two three", **options: Any) -> list[Any]:
    with api.responses.create(model="fake", input=input, stream=True, **options) as events:
        return [EVENTS.validate_json(event.model_dump_json(exclude_unset=True), strict=True) for event in events]


def refusal(api: OpenAI, **options: Any) -> tuple[str | None, str | None]:
    with pytest.raises(openai.BadRequestError) as caught:
        respond(api, **options)
    return caught.value.param, caught.value.code


def test_a_text_answer(api: OpenAI) -> None:
    answer = respond(api, metadata={"a": "b"})
    assert (answer.output_text, answer.status, answer.model) == ("one two three", "completed", "fake")
    assert answer.metadata == {"a": "b"}
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (5, 3, 8)
    assert answer.usage.model_extra == {"steps": 2}
    assert stream(api)[-1].response.usage == answer.usage


def test_events_come_in_order_and_are_the_whole(api: OpenAI) -> None:
    events = stream(api)
    assert [event.type for event in events] == ORDER
    assert [event.sequence_number for event in events] == list(range(len(events)))
    whole = events[-1].response
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert whole.output_text == events[7].text == events[8].part.text == respond(api).output_text
    assert events[0].response.id == whole.id
    assert {event.item_id for event in events[3:9]} == {events[2].item.id, whole.output[0].id, events[9].item.id}


def test_the_clients_own_accumulator_follows(api: OpenAI) -> None:
    with api.responses.stream(model="fake", input="one two three") as events:
        assert events.get_final_response().output_text == "one two three"


def test_a_full_canvas_is_incomplete(api: OpenAI) -> None:
    answer = respond(api, "cut")
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert stream(api, "cut")[-1].type == "response.incomplete"


def test_dialogues_pictures_and_knobs_reach_the_engine(api: OpenAI, engine: Any, png: bytes) -> None:
    picture = "data:image/png;base64," + base64.b64encode(png).decode()
    first = respond(api, "Hello")
    respond(
        api,
        [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": "Hello"},
            *first.output,
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": picture, "detail": "auto"},
                ],
            },
        ],
        instructions="Be brief.",
        max_output_tokens=9,
        extra_body={"steps": 3, "seed": 4},
    )
    seen = engine.requests[-1]
    assert seen.instructions == "Be brief.\nBe kind."
    assert seen.history == (Turn("user", "Hello"), Turn("assistant", "Hello"))
    assert [type(part) for part in seen.parts] == [TextPart, ImagePart]
    assert (seen.decoding.max_tokens, seen.decoding.steps, seen.decoding.seed) == (9, 3, 4)


def test_logprobs_are_the_confidences(api: OpenAI) -> None:
    asked: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    part: Any = respond(api, **asked).output[0]
    assert [token.token for token in part.content[0].logprobs] == ["one ", "two ", "three"]
    assert [token.token for token in stream(api, **asked)[7].logprobs] == ["one ", "two ", "three"]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]}, None),
        ({"extra_body": {"steps": 0}}, "steps"),
        ({"extra_body": {"preview": {"every_steps": 1}}}, "preview"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(api: OpenAI, options: dict[str, Any], param: str | None) -> None:
    assert refusal(api, **options)[0] == (param or "input[0].content[0].image_url")


def test_unknown_models_are_404(api: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        api.responses.create(model="gpt-6", input="x")
