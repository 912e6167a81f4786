"""`/v1/audio/transcriptions` and `/v1/audio/translations` as the official client uses them."""

import base64
import io
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from openai import BadRequestError, OpenAI
from openai.types.audio import (
    Transcription,
    TranscriptionStreamEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
    TranslationVerbose,
)
from pydantic import TypeAdapter

from unmask_engine.media import write_audio
from unmask_engine.request import AudioPart, TextPart

RATE = 16_000
TONE = np.sin(np.arange(RATE) * 0.1, dtype=np.float32) / 2  # a second
SILENCE = np.zeros(3 * RATE, np.float32)


@pytest.fixture(scope="module")
def engine(engine):
    """The fake engine hears how long a sound is."""
    prepare = engine.prepare

    def hear(request, waited_ms: float = 0.0):
        heard = (TextPart(f"about {round(len(p.samples) / p.sample_rate)} long seconds") for p in request.parts)
        return replace(prepare(request, waited_ms), parts=tuple(heard))

    engine.prepare = hear
    return engine


@pytest.fixture(scope="module")
def openai(client: httpx.Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as openai:
        yield openai


@pytest.fixture(scope="module")
def short() -> bytes:
    return write_audio(AudioPart(TONE, RATE), "wav")


@pytest.fixture(scope="module")
def long() -> bytes:
    """One second of sound, three of silence, two of sound."""
    return write_audio(AudioPart(np.concatenate([TONE, SILENCE, TONE, TONE]), RATE), "flac")


def strict(answer_type: Any, answer: Any) -> Any:
    """As it came, held against the type that the client only claims."""
    return TypeAdapter(answer_type).validate_json(answer.model_dump_json(exclude_unset=True), strict=True)


def test_json_is_the_default(openai: OpenAI, short: bytes) -> None:
    answer = openai.audio.transcriptions.create(model="whisper-1", file=io.BytesIO(short))
    strict(Transcription, answer)
    assert answer.text == "about 1 long seconds"
    assert answer.usage is not None
    assert answer.usage.type == "tokens"
    assert answer.usage.total_tokens == 8
    assert answer.usage.model_extra == {"steps": 2}


def test_utterances_are_heard_together_and_told_in_order(openai: OpenAI, engine, long: bytes) -> None:
    before = len(engine.together)
    answer = openai.audio.transcriptions.create(model="any", file=("a.mp3", long), response_format="verbose_json")
    strict(TranscriptionVerbose, answer)
    assert answer.text == "about 2 long seconds about 4 long seconds"
    assert max(engine.together[before:]) == 2
    assert answer.duration == 6.0
    assert answer.usage is not None
    assert answer.usage.seconds == 6
    assert answer.usage.model_extra == {"steps": 4}  # of both
    first, second = answer.segments or []
    assert (first.start, first.end) == pytest.approx((0.0, 1.0), abs=0.11)
    assert (second.start, second.end) == pytest.approx((4.0, 6.0), abs=0.11)
    assert (second.id, second.text) == (1, "about 4 long seconds")


@pytest.mark.parametrize(
    ("response_format", "start"),
    [
        ("text", "about 2 long seconds about 4 long seconds\n"),
        ("srt", "1\n00:00:00,000 --> 00:00:01,"),
        ("vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:01."),
    ],
)
def test_plain_formats(openai: OpenAI, client: httpx.Client, long: bytes, response_format, start: str) -> None:
    answer = openai.audio.transcriptions.create(model="any", file=long, response_format=response_format)
    assert isinstance(answer, str)
    assert answer.startswith(start)
    assert ("\n\n2\n00:00:0" in answer) == (response_format == "srt")
    raw = client.post("/v1/audio/transcriptions", files={"file": long}, data={"response_format": response_format})
    assert raw.headers["content-type"] == "text/plain; charset=utf-8"


def test_words_have_the_times_of_the_whole_recording(openai: OpenAI, long: bytes) -> None:
    answer = openai.audio.transcriptions.create(
        model="any", file=long, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    strict(TranscriptionVerbose, answer)
    first, second = answer.words or []
    assert (first.word, first.start, first.end) == ("hello", 0.01, 0.5)
    cut = 2.5  # the middle of the pause
    assert second.start == pytest.approx(cut + 0.01, abs=0.1)
    assert second.end - second.start == pytest.approx(0.49)
    plain = openai.audio.transcriptions.create(model="any", file=long, response_format="verbose_json")
    assert plain.words is None


def test_streaming(openai: OpenAI, long: bytes) -> None:
    with openai.audio.transcriptions.create(model="any", file=long, stream=True) as stream:
        events = [strict(TranscriptionStreamEvent, event) for event in stream]
    *deltas, done = events
    assert len(deltas) >= 4
    assert {delta.type for delta in deltas} == {"transcript.text.delta"}
    assert isinstance(done, TranscriptionTextDoneEvent)
    assert "".join(delta.delta for delta in deltas) == done.text == "about 2 long seconds about 4 long seconds"


def test_logprobs(openai: OpenAI, long: bytes) -> None:
    answer = openai.audio.transcriptions.create(model="m", file=long, include=["logprobs"])
    strict(Transcription, answer)
    tokens = answer.logprobs or []
    assert [token.token for token in tokens] == ["about ", "2 ", "long ", "about ", "4 ", "long "]
    assert [token.logprob for token in tokens[:2]] == pytest.approx([-0.5, math.log(0.5)])


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_translations(openai: OpenAI, short: bytes) -> None:
    assert openai.audio.translations.create(model="any", file=short).text == "about 1 long seconds"
    verbose = openai.audio.translations.create(model="any", file=short, response_format="verbose_json")
    strict(TranslationVerbose, verbose)


def test_what_clients_send_besides(openai: OpenAI, engine, short: bytes) -> None:
    answer = openai.audio.transcriptions.create(
        model="gpt-4o-mini-transcribe",
        file=("x.webm", short, "application/octet-stream"),
        language="de",
        prompt="names",
        temperature=0.5,
        chunking_strategy={"type": "server_vad", "threshold": 0.5},
        timestamp_granularities=["segment"],
        extra_body={"steps": 7, "seed": 3, "deadline_ms": 1000.5},
    )
    assert answer.text
    decoding = engine.requests[-1].decoding
    assert (decoding.steps, decoding.seed, decoding.deadline_ms, decoding.temperature) == (7, 3, 1000.5, 0.5)


def test_a_recording_in_json(client: httpx.Client, short: bytes) -> None:
    body = {"model": "x", "input_audio": {"data": base64.b64encode(short).decode(), "format": "mp3"}, "language": None}
    assert client.post("/v1/audio/transcriptions", json=body).json()["text"] == "about 1 long seconds"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"timestamp_granularities": "letter"}, "timestamp_granularities[0]"),
        ({"include[]": "images"}, "include[0]"),
        ({"include[]": "logprobs", "response_format": "vtt"}, "include"),
        ({"stream": "true", "response_format": "srt"}, "response_format"),
        ({"stream": "perhaps"}, "stream"),
        ({"temperature": "hot"}, "temperature"),
        ({"steps": "0"}, "steps"),
        ({"preview[every_steps]": "1"}, "preview.every_steps"),
        ({"stream": "true", "steps": "0"}, "steps"),
    ],
)
def test_what_cannot_be_is_refused(client: httpx.Client, short: bytes, fields: dict[str, str], param: str) -> None:
    response = client.post("/v1/audio/transcriptions", data=fields, files={"file": short})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("files", "status", "code"),
    [
        ({}, 400, "missing_file"),
        ({"file": b""}, 400, "empty_media"),
        ({"file": b"not a sound at all"}, 415, "unsupported_media"),
        ({"sound": b"RIFF"}, 400, "missing_file"),
    ],
)
def test_bad_files(client: httpx.Client, files: dict[str, bytes], status: int, code: str) -> None:
    response = client.post("/v1/audio/transcriptions", data={"model": "x"}, files=files or {"other": b"x"})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, "file")


def test_the_client_raises_what_was_wrong(openai: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        openai.audio.transcriptions.create(model="x", file=("a.wav", b""))
    assert (caught.value.code, caught.value.param) == ("empty_media", "file")


def test_without_a_form_or_json(client: httpx.Client) -> None:
    response = client.post("/v1/audio/transcriptions", json={"model": "x"})
    assert response.json()["error"]["code"] == "missing_file"
    response = client.post("/v1/audio/transcriptions", content=b"\xff", headers={"content-type": "audio/wav"})
    assert response.status_code == 400


def test_a_large_text_field_is_read(client: httpx.Client, short: bytes) -> None:
    data = {"prompt": "x" * (1024 * 1024 + 1)}
    assert client.post("/v1/audio/transcriptions", data=data, files={"file": short}).status_code == 200
