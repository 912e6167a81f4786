"""The official client over a real socket. Whatever it gets must pass its own types, strictly."""

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from PIL import Image

from unmask_engine.request import AudioPart, ImagePart, TextPart, Turn
from unmask_server.settings import Settings


@pytest.fixture(scope="module")
def api(client: httpx.Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="-", max_retries=0) as api:
        yield api


def url(data: bytes, mime: str) -> str:
    return f"data:{mime};base64," + base64.b64encode(data).decode()


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts) if len(parts) > 1 or not isinstance(parts[0], str) else parts[0]}]


def ask(api: OpenAI, content: Any = "one two three", **options: Any) -> ChatCompletion:
    messages = content if isinstance(content, list) else user(content)
    raw = api.chat.completions.with_raw_response.create(model="fake", messages=messages, **options)
    return ChatCompletion.model_validate_json(raw.text, strict=True)


def stream(api: OpenAI, content: Any = "one two three", **options: Any) -> list[ChatCompletionChunk]:
    messages = content if isinstance(content, list) else user(content)
    with api.chat.completions.create(model="fake", messages=messages, stream=True, **options) as events:
        chunks = [
            ChatCompletionChunk.model_validate_json(chunk.model_dump_json(exclude_unset=True), strict=True)
            for chunk in events
        ]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    return chunks


def refusal(call: Callable[[], object]) -> tuple[str | None, str | None]:
    with pytest.raises(openai.BadRequestError) as caught:
        call()
    assert caught.value.type == "invalid_request_error"
    return caught.value.param, caught.value.code


def test_a_text_answer(api: OpenAI) -> None:
    answer = ask(api)
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason, choice.logprobs) == ("one two three", "stop", None)
    assert answer.model == "fake"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 3, 8)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.text_tokens == 5
    assert answer.usage.model_extra == {"steps": 2}


def test_the_pieces_are_the_whole(api: OpenAI) -> None:
    chunks = stream(api)
    first, last = chunks[0].choices[0], chunks[-1].choices[0]
    assert (first.delta.role, first.delta.content) == ("assistant", "")
    assert last.finish_reason == "stop"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == ask(api).choices[0].message.content
    assert len([piece for piece in pieces if piece]) == 3
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_comes_last_where_it_is_asked_for(api: OpenAI) -> None:
    *others, last = stream(api, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage == ask(api).usage
    assert all(chunk.usage is None and chunk.choices for chunk in others)


def test_a_full_canvas_is_length(api: OpenAI) -> None:
    assert ask(api, "cut").choices[0].finish_reason == "length"
    assert stream(api, "cut")[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("spoken", ["wav", "pcm16", "mp3", None])
def test_a_spoken_answer(api: OpenAI, spoken: str | None) -> None:
    audio: dict[str, Any] = {"voice": "alloy", "format": spoken}
    answer = ask(api, modalities=["text", "audio"], audio=audio).choices[0].message
    assert answer.content is None
    assert answer.audio is not None
    assert answer.audio.transcript == "one two three"
    data = base64.b64decode(answer.audio.data)
    if spoken == "pcm16":
        assert len(data) == 2 * 2400  # 0.1 s
    else:
        assert soundfile.info(io.BytesIO(data)).duration == pytest.approx(0.1, abs=0.06)


def test_speech_streams_as_pcm16_that_equals_the_whole(api: OpenAI) -> None:
    audio: Any = {"voice": {"id": "marin"}, "format": "pcm16"}
    chunks = stream(api, modalities=["text", "audio"], audio=audio)
    deltas = [chunk.choices[0].delta.audio for chunk in chunks[:-1]]
    assert len({delta.id for delta in deltas if delta}) == 1
    pieces = [base64.b64decode(delta.data) for delta in deltas if delta and delta.data]
    assert len(pieces) > 1
    assert all(len(piece) % 2 == 0 for piece in pieces)
    whole = ask(api, modalities=["text", "audio"], audio=audio).choices[0].message.audio
    assert whole is not None
    assert b"".join(pieces) == base64.b64decode(whole.data)
    assert "".join(delta.transcript or "" for delta in deltas if delta) == whole.transcript
    assert deltas[-1] is not None
    assert deltas[-1].expires_at is not None
    assert all(chunk.choices[0].delta.content is None for chunk in chunks)


def test_speech_alone_has_no_transcript(api: OpenAI) -> None:
    audio: Any = {"voice": "alloy", "format": "pcm16"}
    whole = ask(api, modalities=["audio"], audio=audio).choices[0].message.audio
    deltas = [chunk.choices[0].delta.audio for chunk in stream(api, modalities=["audio"], audio=audio)]
    assert whole is not None
    assert whole.transcript == "".join((delta and delta.transcript) or "" for delta in deltas) == ""
    assert b"".join(base64.b64decode((delta and delta.data) or "") for delta in deltas) == base64.b64decode(whole.data)


def test_only_pcm16_streams(api: OpenAI) -> None:
    audio: Any = {"voice": "alloy", "format": "wav"}
    assert refusal(lambda: stream(api, modalities=["audio"], audio=audio)) == ("audio.format", "unsupported_value")


def test_a_picture_comes_in_openrouters_shape(api: OpenAI) -> None:
    message = ask(api, extra_body={"modalities": ["image", "text"]}).choices[0].message
    assert message.content is None
    assert message.model_extra is not None
    (image,) = message.model_extra["images"]
    head, _, data = image["image_url"]["url"].partition(",")
    assert (image["type"], head) == ("image_url", "data:image/png;base64")
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (24, 16)
    deltas = [chunk.choices[0].delta for chunk in stream(api, extra_body={"modalities": ["image"]})]
    assert [delta.images for delta in deltas if "images" in (delta.model_extra or {})] == [[image]]


def test_media_in(api: OpenAI, engine: Any, png: bytes, wav: bytes) -> None:
    spoken = base64.b64encode(wav).decode()
    picture = {"type": "image_url", "image_url": {"url": url(png, "image/png"), "detail": "auto"}}
    for audio in (
        {"type": "input_audio", "input_audio": {"data": spoken, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": url(wav, "audio/wav")}},
        {"type": "file", "file": {"file_data": url(wav, "audio/wav"), "filename": "x.wav"}},
    ):
        ask(api, user({"type": "text", "text": "what?"}, picture, audio))
        assert [type(part) for part in engine.requests[-1].parts] == [TextPart, ImagePart, AudioPart]
    ask(api, user({"type": "text", "text": " "}, picture))  # some clients send an empty text along
    assert [type(part) for part in engine.requests[-1].parts] == [ImagePart]


def test_the_dialogue_so_far_reaches_the_engine(api: OpenAI, engine: Any, png: bytes) -> None:
    picture = {"type": "image_url", "image_url": {"url": url(png, "image/png")}}
    ask(
        api,
        [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]},
            {"role": "assistant", "content": "A square."},
            {"role": "user", "content": "Of what colour?"},
        ],
    )
    seen = engine.requests[-1]
    assert seen.instructions == "Be brief.\nBe kind."
    assert seen.history == (Turn("user", "What is this?"), Turn("assistant", "A square."))
    assert [type(part) for part in seen.parts] == [ImagePart, TextPart]  # the picture comes along


def test_a_spoken_answer_is_remembered_by_its_id(api: OpenAI, engine: Any) -> None:
    audio: Any = {"voice": "alloy", "format": "wav"}
    spoken = ask(api, "hello there", modalities=["text", "audio"], audio=audio).choices[0].message.audio
    streamed = stream(api, "hi again", modalities=["text", "audio"])[0].choices[0].delta.audio
    assert spoken is not None
    assert streamed is not None
    first, last = {"role": "user", "content": "one"}, {"role": "user", "content": "two"}
    for id, said in ((spoken.id, "hello there"), (streamed.id, "hi again")):
        ask(api, [first, {"role": "assistant", "content": None, "audio": {"id": id}}, last])
        assert engine.requests[-1].history[1] == Turn("assistant", said)
    forgotten = [first, {"role": "assistant", "audio": {"id": "audio_x"}}, last]
    assert refusal(lambda: ask(api, forgotten)) == ("messages[1].audio.id", "audio_not_found")


def test_the_clients_own_message_may_be_sent_back(api: OpenAI, engine: Any) -> None:
    message: Any = ask(api, "hello", extra_body={"modalities": ["image"]}).choices[0].message
    ask(api, [{"role": "user", "content": "one"}, message, {"role": "user", "content": "two"}])
    assert engine.requests[-1].history == (Turn("user", "one"), Turn("assistant", "[image]"))


def test_options_and_native_knobs_reach_the_engine(api: OpenAI, engine: Any) -> None:
    ask(
        api,
        max_completion_tokens=100_000,
        seed=3,
        temperature=1,
        top_p=0.5,
        extra_body={"steps": 7, "guidance": 1.5, "deadline_ms": 900, "block_size": 4, "task": "vqa"},
    )
    seen = engine.requests[-1]
    assert (seen.decoding.max_tokens, seen.decoding.seed, seen.decoding.temperature) == (2048, 3, 1.0)
    assert (seen.decoding.top_p, seen.decoding.steps, seen.decoding.guidance) == (0.5, 7, 1.5)
    assert (seen.decoding.deadline_ms, seen.decoding.block_size, seen.task) == (900, 4, "vqa")
    ask(api, max_tokens=9)
    assert engine.requests[-1].decoding.max_tokens == 9


def test_stop_cuts_and_never_shows_its_beginning(api: OpenAI) -> None:
    assert ask(api, stop="two").choices[0].message.content == "one "
    assert ask(api, stop=["x", "e t"]).choices[0].message.content == "on"
    for stops in ("two", ["x", "e t"], "three four"):
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream(api, stop=stops)]
        assert "".join(pieces) == ask(api, stop=stops).choices[0].message.content


def test_logprobs_are_the_confidences(api: OpenAI) -> None:
    (choice,) = ask(api, logprobs=True, top_logprobs=1).choices
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert [(token.token, token.logprob) for token in tokens] == [("one ", -0.5), ("two ", np.log(0.5)), ("three", 0.0)]
    assert tokens[0].top_logprobs[0].token == "one "
    assert stream(api, logprobs=True, top_logprobs=1)[-1].choices[0].logprobs is not None
    (cut,) = ask(api, logprobs=True, stop="three").choices
    assert cut.logprobs is not None
    assert len(cut.logprobs.content or []) == 2


def test_what_cannot_change_the_result_is_accepted(api: OpenAI) -> None:
    ask(
        api,
        n=1,
        user="me",
        metadata={"a": "b"},
        store=True,
        tools=[],
        tool_choice="auto",
        logit_bias={},
        presence_penalty=0,
        reasoning_effort="low",
        response_format={"type": "text"},
        parallel_tool_calls=False,
        extra_body={"stop": None, "audio": None, "stream_options": None, "temperature": None, "unheard_of": 1},
    )


TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 2}, "n"),
        ({"extra_body": {"preview": {"every_steps": 1}}}, "preview"),
        ({"tools": [TOOL]}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format.json_schema"),
        ({"logprobs": True, "top_logprobs": 5}, "top_logprobs"),
        ({"logprobs": True, "extra_body": {"algorithm": "origin"}}, "logprobs"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "nobody", "format": "wav"}}, "audio.voice"),
        ({"modalities": ["audio"], "stop": "x"}, "stop"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"extra_body": {"steps": 0}}, "steps"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(api: OpenAI, options: dict[str, Any], param: str) -> None:
    assert refusal(lambda: ask(api, **options))[0] == param
    assert refusal(lambda: stream(api, **options))[0] == param


def test_bad_messages_are_refused_by_name(api: OpenAI, png: bytes, wav: bytes) -> None:
    picture = {"type": "image_url", "image_url": {"url": url(png, "image/png")}}
    remote = {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}
    assert refusal(lambda: ask(api, user(remote))) == ("messages[0].content[0].image_url", "remote_media_refused")
    assert refusal(lambda: ask(api, user(picture, picture))) == ("messages[0].content[1]", "too_many_parts")
    assert refusal(lambda: ask(api, user({"type": "video_url"})))[0] == "messages[0].content[0].type"
    assert refusal(lambda: ask(api, user({"type": "text"})))[0] == "messages[0].content[0].text"
    assert refusal(lambda: ask(api, [{"role": "assistant", "content": "x"}]))[0] == "messages[0].role"
    assert refusal(lambda: ask(api, [{"role": "tool", "content": "x"}]))[0] == "messages[0].role"
    assert refusal(lambda: ask(api, []))[0] == "messages"


def test_unknown_models_are_404(api: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        api.chat.completions.create(model="gpt-6", messages=[{"role": "user", "content": "x"}])
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_the_model_answers_to_the_names_it_was_given(new_engine: Any, start: Any, wait: Any) -> None:
    with start(lambda: new_engine, Settings(served_names=("org/one", "two"))) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        with OpenAI(base_url=f"{client.base_url}/v1", api_key="-", max_retries=0) as api:
            assert [model.id for model in api.models.list().data] == ["org/one", "two"]
            for name in ("org/one", "two"):
                messages: Any = [{"role": "user", "content": "x"}]
                assert api.chat.completions.create(model=name, messages=messages).model == name
                assert api.models.retrieve(name).id == name
            with pytest.raises(openai.NotFoundError):
                ask(api)


def test_the_models_of_the_list_can_be_looked_up(api: OpenAI) -> None:
    (model,) = api.models.list().data
    assert api.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError) as caught:
        api.models.retrieve("gpt-6")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_failure_is_an_error_of_the_client(api: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError):
        ask(api, "crash")
    with pytest.raises(openai.APIError, match="failed") as caught:
        stream(api, "crash")
    assert caught.value.code == "internal_error"


def test_the_clients_own_accumulator_follows(api: OpenAI) -> None:
    with api.chat.completions.stream(model="fake", messages=[{"role": "user", "content": "one two three"}]) as events:
        deltas = [event.delta for event in events if event.type == "content.delta"]
        assert events.get_final_completion().choices[0].message.content == "".join(deltas) == "one two three"


def test_a_client_that_leaves_a_stream_frees_the_engine(new_engine: Any, start: Any, wait: Any) -> None:
    new_engine.hold.set()
    with start(lambda: new_engine) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        with OpenAI(base_url=f"{client.base_url}/v1", api_key="-", max_retries=0) as api:
            with api.chat.completions.create(
                model="fake", messages=[{"role": "user", "content": "one two three"}], stream=True
            ) as events:
                next(events)
            wait(new_engine.cancelled.is_set)
            assert new_engine.running == []
            with pytest.raises(openai.APITimeoutError):
                ask(api.with_options(timeout=0.2))
            wait(lambda: new_engine.running == [])


def test_a_slash_at_the_end_of_models_is_no_other_place(client: httpx.Client) -> None:
    assert client.get("/v1/models/").json() == client.get("/v1/models").json()
