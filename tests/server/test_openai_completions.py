"""The official client over a real socket; what it gets must pass its own types, strictly."""

from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types import Completion, CompletionChoice

from unmask_engine.request import Edit, TextPart


@pytest.fixture(scope="module")
def api(client: httpx.Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="-", max_retries=0) as api:
        yield api


def complete(api: OpenAI, prompt: Any = "one two three", **options: Any) -> Completion:
    raw = api.completions.with_raw_response.create(model="fake", prompt=prompt, **options)
    return Completion.model_validate_json(raw.text, strict=True)


class Unfinished(CompletionChoice):
    finish_reason: Literal["stop", "length"] | None  # type: ignore[assignment]


class Chunk(Completion):
    """The client has one type for the whole and its pieces; a piece before the last has no reason to end."""

    choices: list[Unfinished]  # type: ignore[assignment]


def stream(api: OpenAI, prompt: str = "one two three", **options: Any) -> list[Chunk]:
    with api.completions.create(model="fake", prompt=prompt, stream=True, **options) as events:
        chunks = [Chunk.model_validate_json(chunk.model_dump_json(exclude_unset=True), strict=True) for chunk in events]
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    return chunks


def refused_field(api: OpenAI, **options: Any) -> str | None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(api, **options)
    return caught.value.param


def test_a_completion(api: OpenAI, engine: Any) -> None:
    answer = complete(api, ["one two three"], max_tokens=9, extra_body={"steps": 3})
    assert answer.choices[0].text == "one two three"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 8
    assert answer.usage.model_extra == {"steps": 2}
    seen = engine.requests[-1]
    assert (seen.parts, seen.outputs) == ((TextPart("one two three"),), ("text",))
    assert (seen.decoding.max_tokens, seen.decoding.steps) == (9, 3)


@pytest.mark.parametrize("stop", [None, "three", ["two t"]])
def test_the_pieces_are_the_whole(api: OpenAI, stop: Any) -> None:
    chunks = stream(api, stop=stop)
    assert "".join(chunk.choices[0].text for chunk in chunks) == complete(api, stop=stop).choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    *others, last = stream(api, stop=stop, stream_options={"include_usage": True})
    assert all(chunk.usage is None for chunk in others)
    assert (last.choices, last.usage) == ([], complete(api).usage)


def test_suffix_fills_the_gap(api: OpenAI, engine: Any) -> None:
    for answer in (complete(api, "a ", suffix=" z", max_tokens=3), stream(api, "a ", suffix=" z", max_tokens=3)[-1]):
        seen = engine.requests[-1]
        assert seen.edit == Edit(TextPart("a [MASK:3] z"))
        assert seen.decoding.max_tokens is None
        # The fake answers with its prompt, from which the length of prompt and suffix is cut.
        assert answer.choices[0].text == "Complete the text."[2:-2]


def test_logprobs_are_the_confidences(api: OpenAI) -> None:
    logprobs = complete(api, logprobs=1).choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.text_offset) == (["one ", "two ", "three"], [0, 4, 8])
    assert logprobs.token_logprobs is not None
    assert logprobs.token_logprobs[0] == -0.5
    assert logprobs.top_logprobs is not None
    assert logprobs.top_logprobs[0] == {"one ": -0.5}


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 2}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True}, "echo"),
        ({"logprobs": 5}, "logprobs"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": "a [MASK:3]", "suffix": "b"}, "prompt"),
        ({"suffix": "b", "max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"steps": 0}}, "steps"),
        ({"extra_body": {"preview": {"every_steps": 1}}}, "preview"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(api: OpenAI, options: dict[str, Any], param: str) -> None:
    assert refused_field(api, **options) == param


def test_unknown_models_are_404(api: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        api.completions.create(model="gpt-6", prompt="x")
