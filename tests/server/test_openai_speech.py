"""`/v1/audio/speech` and the voices as the official client and Open WebUI use them."""

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest
import soundfile
from openai import BadRequestError, OpenAI

from unmask_engine.omni_presets import OMNI_PRESETS
from unmask_engine.request import TextPart
from unmask_server.settings import Settings

SAMPLES = round(2205 * 24000 / 22050)  # of the fake engine's tone, at the rate of the wire


@pytest.fixture(scope="module")
def openai(client: httpx.Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as openai:
        yield openai


@pytest.mark.parametrize(
    ("response_format", "mime", "container"),
    [
        ("mp3", "audio/mpeg", "MP3"),
        ("opus", "audio/ogg", "OGG"),
        ("flac", "audio/flac", "FLAC"),
        ("wav", "audio/wav", "WAV"),
    ],
)
def test_formats(openai: OpenAI, response_format, mime: str, container: str) -> None:
    answer = openai.audio.speech.create(model="tts-1", voice="alloy", input="hello", response_format=response_format)
    assert answer.response.headers["content-type"] == mime
    assert answer.response.headers["transfer-encoding"] == "chunked"
    info = soundfile.info(io.BytesIO(answer.content))
    assert (info.format, info.samplerate, info.channels) == (container, 24000, 1)
    assert info.duration == pytest.approx(0.1, abs=0.1)


def test_mp3_is_the_default(openai: OpenAI) -> None:
    answer = openai.audio.speech.create(model="x", voice={"id": "default"}, input="hello")
    assert answer.response.headers["content-type"] == "audio/mpeg"


def test_pcm_streams_in_order(openai: OpenAI, engine) -> None:
    text = "One sentence. Another one! And a third?"
    with openai.audio.speech.with_streaming_response.create(
        model="tts-1", voice="nova", input=text, response_format="pcm", instructions="calm", speed=1.0
    ) as answer:
        data = b"".join(answer.iter_bytes())
    assert abs(len(data) // 2 - 3 * SAMPLES) <= 2
    assert np.abs(np.frombuffer(data, "<i2")).max() == pytest.approx(16384, rel=0.05)
    spoken = [request.parts for request in engine.requests[-3:]]
    assert spoken == [(TextPart("One sentence."),), (TextPart("Another one!"),), (TextPart("And a third?"),)]


def test_the_preset_says_how_many_words_a_piece_may_have(start, wait, new_engine) -> None:
    preset = next(preset for preset in OMNI_PRESETS if preset.task == "tts")
    new_engine.bundle.presets = (replace(preset, piece_words=2),)
    with start(lambda: new_engine) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        body = {"input": "one two three, four five.", "response_format": "pcm"}
        answer = client.post("/v1/audio/speech", json=body)
    assert abs(len(answer.content) // 2 - 3 * SAMPLES) <= 2
    spoken = {part.text for request in new_engine.requests for part in request.parts}
    assert spoken == {"one two", "three,", "four five."}


def test_events_carry_the_same_bytes(client: httpx.Client, openai: OpenAI) -> None:
    with openai.audio.speech.with_streaming_response.create(
        model="m", voice="alloy", input="Hello there. You.", response_format="pcm", stream_format="sse"
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert [event["type"] for event in events[:-1]] == ["speech.audio.delta"] * (len(events) - 1)
    assert events[-1] == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 10, "output_tokens": 6, "total_tokens": 16, "steps": 4},
    }
    whole = client.post("/v1/audio/speech", json={"input": "Hello there. You.", "response_format": "pcm"})
    assert b"".join(base64.b64decode(event["audio"]) for event in events[:-1]) == whole.content


def test_native_knobs_and_nulls(openai: OpenAI, client: httpx.Client, engine) -> None:
    openai.audio.speech.create(model="m", voice="alloy", input="x", extra_body={"steps": 9, "seed": 4})
    assert (engine.requests[-1].decoding.steps, engine.requests[-1].decoding.seed) == (9, 4)
    body = {"input": "x", "voice": None, "instructions": None, "speed": None, "temperature": None, "lang": "en"}
    assert client.post("/v1/audio/speech", json=body).status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": " \n"}, "input"),
        ({"input": "x" * 5000}, "input"),
        ({"input": "x", "voice": "darth"}, "voice"),
        ({"input": "x", "response_format": "midi"}, "response_format"),
        ({"input": "x", "speed": 2}, "speed"),
        ({"input": "x", "stream_format": "smoke"}, "stream_format"),
        ({"input": "x", "steps": 0}, "steps"),
        ({"input": "x", "preview": {"every_steps": 1}}, "preview"),
        ({"input": "x", "steps": 0, "stream_format": "sse"}, "steps"),
    ],
)
def test_what_cannot_be_is_refused(client: httpx.Client, body: dict[str, object], param: str) -> None:
    response = client.post("/v1/audio/speech", json=body, headers={"accept": "application/octet-stream"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_aac_with_the_extra(client: httpx.Client, openai: OpenAI) -> None:
    av = pytest.importorskip("av", reason="the extra `aac` is not installed")
    answer = openai.audio.speech.create(model="m", voice="alloy", input="Hello there. You.", response_format="aac")
    assert answer.response.headers["content-type"] == "audio/aac"
    with av.open(io.BytesIO(answer.content)) as file:
        assert file.format.name == "aac"
        frames = list(file.decode(audio=0))
    assert (frames[0].sample_rate, frames[0].layout.name) == (24000, "mono")
    assert sum(frame.samples for frame in frames) == pytest.approx(2 * SAMPLES, abs=2048)  # frames of 1024 and a delay
    body = {"input": "Hello there. You.", "response_format": "aac", "stream_format": "sse"}
    events = [json.loads(line[6:]) for line in client.post("/v1/audio/speech", json=body).iter_lines() if line]
    assert b"".join(base64.b64decode(event["audio"]) for event in events[:-1]) == answer.content


def test_aac_without_it_says_what_is_missing(openai: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask_server.aac.find_spec", lambda _: None)
    with pytest.raises(BadRequestError, match=r"the extra `aac`.*unmask\[aac\]") as caught:
        openai.audio.speech.create(model="m", voice="alloy", input="x", response_format="aac")
    assert caught.value.code == "unsupported_format"


def test_a_crash_after_the_first_byte_cuts_the_answer_short(client: httpx.Client) -> None:
    body = {"input": "Fine.\ncrash", "response_format": "pcm"}
    with pytest.raises(httpx.RemoteProtocolError):
        client.post("/v1/audio/speech", json=body)
    events = client.post("/v1/audio/speech", json=body | {"stream_format": "sse"}).text
    assert '"error":' in events
    assert "speech.audio.done" not in events


def test_voices(client: httpx.Client) -> None:
    voices = client.get("/v1/audio/voices").json()["voices"]
    assert {"id": "marin", "name": "Marin"} in voices
    assert len(voices) == 14
    assert client.get("/v1/audio/models").json() == {"models": [{"id": "fake"}]}


def test_a_text_of_many_pieces_fits_into_a_short_queue(start, wait, new_engine) -> None:
    with start(lambda: new_engine, Settings(max_batch=1, max_queue=1)) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        body = {"input": "One. Two. Three. Four. Five.", "response_format": "pcm"}
        assert abs(len(client.post("/v1/audio/speech", json=body).content) // 2 - 5 * SAMPLES) <= 4


def test_a_full_queue_refuses_before_the_first_byte(start, wait, new_engine) -> None:
    with start(lambda: new_engine, Settings(max_queue=0, max_batch=1)) as client, ThreadPoolExecutor() as pool:
        wait(lambda: client.get("/ready").status_code == 200)
        new_engine.hold.set()
        running = pool.submit(client.post, "/v1/generate", json={"input": "x"})
        wait(lambda: new_engine.together[-1:] == [1])
        response = client.post("/v1/audio/speech", json={"input": "One. Two."})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
        assert "retry-after" in response.headers
        new_engine.hold.clear()
        assert running.result().status_code == 200


def test_a_client_that_leaves_frees_the_engine(start, wait, new_engine) -> None:
    with start(lambda: new_engine) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        new_engine.hold.set()
        body = {"input": "One. Two. Three.", "response_format": "pcm"}
        with client.stream("POST", "/v1/audio/speech", json=body) as answer:
            chunks = answer.iter_bytes()  # held: the response ends with it
            next(chunks)
        wait(lambda: new_engine.cancelled.is_set() and not new_engine.running)
        new_engine.hold.clear()
