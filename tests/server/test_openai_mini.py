"""The official client and the built-in model: every way in and out, and streamed = whole."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import pytest
import soundfile
from openai import NotFoundError, OpenAI
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from PIL import Image
from pydantic import BaseModel, Field

from unmask_engine.engine import Engine
from unmask_engine.media import write_audio
from unmask_engine.request import GenerationRequest, TextPart

pytestmark = pytest.mark.slow  # loads the model and decodes a dozen answers
MODEL = "unmask-mini"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load(MODEL)


@pytest.fixture(scope="module")
def api(client: httpx.Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="-", max_retries=0) as api:
        yield api


@pytest.fixture(scope="module")
def drawn(api: OpenAI) -> str:
    """The data: URL of a picture that the model has drawn."""
    answer = chat(api, "a red circle", modalities=["image"])
    images: Any = (answer.choices[0].message.model_extra or {})["images"]
    (image,) = images
    return str(image["image_url"]["url"])


@pytest.fixture(scope="module")
def spoken(engine: Engine) -> str:
    """A question as base64 WAV."""
    (made,) = engine.generate([GenerationRequest((TextPart("what is in the picture"),), ("audio",))])
    assert made.audio is not None
    return base64.b64encode(write_audio(made.audio, "wav")).decode()


def chat(api: OpenAI, content: Any, **extra: Any) -> ChatCompletion:
    is_dialogue = isinstance(content, list) and "role" in content[0]
    messages: Any = content if is_dialogue else [{"role": "user", "content": content}]
    return api.chat.completions.create(model=MODEL, messages=messages, extra_body={"steps": 8} | extra)


def test_a_picture_is_drawn(drawn: str) -> None:
    with Image.open(io.BytesIO(base64.b64decode(drawn.partition(",")[2]))) as image:
        assert image.size == (128, 128)


def test_a_dialogue_about_a_picture(api: OpenAI, drawn: str) -> None:
    picture = {"type": "image_url", "image_url": {"url": drawn}}
    first = [{"role": "user", "content": [{"type": "text", "text": "where is the circle"}, picture]}]
    answer = chat(api, first)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.image_tokens == 64
    later = chat(api, [*first, answer.choices[0].message, {"role": "user", "content": "what is in the picture"}])
    assert later.usage is not None
    assert later.usage.prompt_tokens > answer.usage.prompt_tokens
    assert later.choices[0].message.content


def test_a_spoken_answer_to_a_spoken_question_streams(api: OpenAI, spoken: str, drawn: str) -> None:
    question: Any = [
        {"type": "image_url", "image_url": {"url": drawn}},
        {"type": "input_audio", "input_audio": {"data": spoken, "format": "wav"}},
    ]
    options: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
    whole = chat(api, question, **options).choices[0].message.audio
    assert whole is not None
    said, heard = "", b""
    with api.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        stream=True,
        extra_body={"steps": 8} | options,
    ) as chunks:
        for chunk in chunks:
            delta = chunk.choices[0].delta.audio
            said += (delta and delta.transcript) or ""
            heard += base64.b64decode((delta and delta.data) or "")
    assert said == whole.transcript
    assert heard == base64.b64decode(whole.data)


def test_text_becomes_speech(api: OpenAI) -> None:
    audio = chat(api, "two small hearts", modalities=["audio"], audio={"format": "wav"}).choices[0].message.audio
    assert audio is not None
    assert soundfile.info(io.BytesIO(base64.b64decode(audio.data))).duration > 0.2


def test_logprobs_are_of_the_text(api: OpenAI, drawn: str) -> None:
    content = [{"type": "text", "text": "where is the circle"}, {"type": "image_url", "image_url": {"url": drawn}}]
    (choice,) = chat(api, content, logprobs=True).choices
    assert choice.logprobs is not None
    assert "".join(token.token for token in choice.logprobs.content or []) == choice.message.content
    assert all(token.logprob <= 0 for token in choice.logprobs.content or [])


def test_what_the_model_cannot_do_is_told_with_what_it_can(api: OpenAI) -> None:
    with pytest.raises(Exception, match="there are: text -> image") as caught:
        chat(api, "hello", modalities=["text", "audio"])
    assert caught.value.param == "modalities"  # type: ignore[attr-defined]


def test_a_gap_is_filled_in(api: OpenAI) -> None:
    answer = api.completions.create(model=MODEL, prompt="a small", suffix=" circle", max_tokens=2)
    assert answer.choices[0].finish_reason == "stop"
    assert "circle" not in answer.choices[0].text


def test_responses_stream_what_they_end_with(api: OpenAI, drawn: str) -> None:
    content: Any = [{"type": "input_text", "text": "where is the circle"}, {"type": "input_image", "image_url": drawn}]
    message: Any = {"role": "user", "content": content}
    with api.responses.stream(model=MODEL, input=[message], extra_body={"steps": 8}) as events:
        said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert events.get_final_response().output_text == said
    assert api.responses.create(model=MODEL, input=[message], extra_body={"steps": 8}).output_text == said


def test_json_has_the_keys_of_its_schema(api: OpenAI, drawn: str) -> None:
    schema = {"type": "object", "properties": {"colour": {"type": "string"}, "shape": {"type": "string"}}}
    answer = api.chat.completions.create(
        model=MODEL,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is in the picture"},
                    {"type": "image_url", "image_url": {"url": drawn}},
                ],
            }
        ],
        response_format={"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}},
    )
    assert list(json.loads(answer.choices[0].message.content or "")) == ["colour", "shape"]


class Count(BaseModel):
    number: int
    size: float
    is_round: bool
    colour: Literal["red", "dark blue", "yellow"]
    shape: Literal["circle", "square"] | None
    few: list[int] = Field(min_length=2, max_length=2)


@pytest.mark.parametrize("question", ["how many circles", "hello", "say nothing"])
def test_json_has_a_value_wherever_its_schema_asks_for_one(api: OpenAI, question: str) -> None:
    answer = api.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": question}], response_format=Count
    )
    assert isinstance(answer.choices[0].message.parsed, Count)


def strict(event_type: Any, event: Any) -> Any:
    """As it came, held against the type that the client only claims."""
    return event_type.model_validate_json(event.model_dump_json(exclude_unset=True), strict=True)


def test_a_text_answer_streams(api: OpenAI) -> None:
    whole = strict(ChatCompletion, chat(api, "hello"))
    assert whole.choices[0].message.content
    with api.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"steps": 8},
    ) as chunks:
        *told, last = [strict(ChatCompletionChunk, chunk) for chunk in chunks]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in told) == whole.choices[0].message.content
    assert told[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.usage == whole.usage


def test_a_picture_comes_in_a_stream(api: OpenAI, drawn: str) -> None:
    with api.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "a red circle"}],
        stream=True,
        extra_body={"steps": 8, "modalities": ["image"]},
    ) as chunks:
        deltas = [strict(ChatCompletionChunk, chunk).choices[0].delta.model_extra or {} for chunk in chunks]
    (image,) = [image for delta in deltas for image in delta.get("images", ())]
    assert image["image_url"]["url"] == drawn


def test_a_prompt_is_answered_without_a_suffix_whole_and_streamed(api: OpenAI) -> None:
    options: dict[str, Any] = {"model": MODEL, "prompt": "hello", "extra_body": {"steps": 8}}
    whole = strict(Completion, api.completions.create(**options))
    assert whole.choices[0].text
    with api.completions.create(stream=True, **options) as pieces:
        told = [strict(Completion, piece) for piece in pieces]
    assert "".join(piece.choices[0].text for piece in told) == whole.choices[0].text


def test_a_gap_is_filled_in_as_a_stream(api: OpenAI) -> None:
    options: dict[str, Any] = {"model": MODEL, "prompt": "a small", "suffix": " circle", "max_tokens": 2}
    with api.completions.create(stream=True, **options) as pieces:
        told = "".join(piece.choices[0].text for piece in pieces)
    assert told == api.completions.create(**options).choices[0].text


def test_models(api: OpenAI) -> None:
    (listed,) = api.models.list().data
    assert strict(Model, listed).id == MODEL
    assert api.models.retrieve(MODEL) == listed
    with pytest.raises(NotFoundError) as caught:
        api.models.retrieve("gpt-5")
    assert caught.value.code == "model_not_found"


class Scene(BaseModel):
    colours: list[str]
    words: list[str] = Field(min_length=2, max_length=2)
    note: str | None


def test_a_type_with_lists_is_filled_in(api: OpenAI) -> None:
    answer = api.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": "hello"}], response_format=Scene
    )
    scene = answer.choices[0].message.parsed
    assert scene is not None
    assert len(scene.words) == 2
    assert len(scene.colours) <= 8
