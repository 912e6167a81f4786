"""The official client's audio and image calls, answered by the model that ships."""

import base64
import io
import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import soundfile
import torch
from openai import OpenAI
from PIL import Image

from unmask_engine.engine import Engine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def openai(start, wait) -> Iterator[OpenAI]:
    torch.set_num_threads(1)

    def ready(client: httpx.Client) -> bool:
        return client.get("/ready").status_code == 200

    with start(lambda: Engine.load("unmask-mini")) as client:
        wait(lambda: ready(client))
        with OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as openai:
            yield openai


def pixels(picture: str | None) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(picture or ""))) as image:
        return np.asarray(image.convert("RGB"))


def test_what_it_says_it_hears(openai: OpenAI) -> None:
    said = openai.audio.speech.create(
        model="tts-1", voice="alloy", input="A red circle. A blue star.", response_format="wav"
    )
    samples, rate = soundfile.read(io.BytesIO(said.content))
    assert rate == 24_000
    assert 1 < len(samples) / rate < 20
    assert np.abs(samples).max() > 0.05
    heard = openai.audio.transcriptions.create(model="whisper-1", file=said.content, response_format="verbose_json")
    assert heard.text
    assert heard.duration == pytest.approx(len(samples) / rate, abs=0.01)


def test_streamed_speech_is_the_whole(openai: OpenAI) -> None:
    def speak() -> list[bytes]:
        with openai.audio.speech.with_streaming_response.create(
            model="m", voice="nova", input="A red circle. Two large green hearts!", response_format="pcm"
        ) as answer:
            return list(answer.iter_bytes())

    assert b"".join(speak()) == b"".join(speak())


@pytest.fixture(scope="module")
def said(openai: OpenAI) -> bytes:
    """Two sentences as WAV."""
    return openai.audio.speech.create(
        model="tts-1", voice="alloy", input="A red circle. A blue star.", response_format="wav"
    ).content


@pytest.mark.parametrize("format", ["mp3", "opus", "flac", "wav"])
def test_speech_comes_in_every_format(openai: OpenAI, said: bytes, format: str) -> None:
    content = openai.audio.speech.create(
        model="tts-1", voice="alloy", input="A red circle. A blue star.", response_format=format
    ).content
    samples, rate = soundfile.read(io.BytesIO(content))
    whole, _ = soundfile.read(io.BytesIO(said))
    assert rate in (24_000, 48_000)
    assert len(samples) / rate == pytest.approx(len(whole) / 24_000, abs=0.2)


def test_aac_is_speech_too(openai: OpenAI, said: bytes) -> None:
    pytest.importorskip("av", reason="the extra `aac` is not installed")
    content = openai.audio.speech.create(
        model="tts-1", voice="alloy", input="A red circle. A blue star.", response_format="aac"
    ).content
    heard = openai.audio.transcriptions.create(model="whisper-1", file=("said.aac", content))
    assert heard.text


def test_speech_as_events_is_the_whole(openai: OpenAI) -> None:
    options = {"model": "tts-1", "voice": "alloy", "input": "A red circle. A blue star.", "response_format": "pcm"}
    with openai.audio.speech.with_streaming_response.create(stream_format="sse", **options) as answer:
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    assert events[-1]["type"] == "speech.audio.done"
    assert events[-1]["usage"]["output_tokens"] > 0
    whole = openai.audio.speech.create(**options).content
    assert b"".join(base64.b64decode(event["audio"]) for event in events[:-1]) == whole


def test_a_transcription_streams(openai: OpenAI, said: bytes) -> None:
    whole = openai.audio.transcriptions.create(model="whisper-1", file=("said.wav", said))
    with openai.audio.transcriptions.create(model="whisper-1", file=("said.wav", said), stream=True) as stream:
        *deltas, done = list(stream)
    assert done.type == "transcript.text.done"
    assert done.text == whole.text
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == whole.text


@pytest.mark.parametrize("format", ["text", "srt", "vtt"])
def test_a_transcript_in_other_forms(openai: OpenAI, said: bytes, format: str) -> None:
    options = {"model": "whisper-1", "file": ("said.wav", said)}
    words = openai.audio.transcriptions.create(**options).text.split()
    told = openai.audio.transcriptions.create(response_format=format, **options)
    assert words
    assert all(word in told for word in words)


def test_a_translation_is_a_transcription(openai: OpenAI, said: bytes) -> None:
    heard = openai.audio.transcriptions.create(model="whisper-1", file=("said.wav", said))
    assert openai.audio.translations.create(model="whisper-1", file=("said.wav", said)).text == heard.text


def test_voices_speak(openai: OpenAI) -> None:
    """The client has no call of its own for them."""
    answer = openai.get("/audio/voices", cast_to=httpx.Response)
    assert {"alloy", "marin"} <= {voice["id"] for voice in answer.json()["voices"]}


def test_variations_differ_and_the_first_is_the_best_guess(openai: OpenAI) -> None:
    one = openai.images.generate(prompt="a large red circle")
    several = openai.images.generate(prompt="a large red circle", n=3, extra_body={"seed": 1})
    pictures = [made.b64_json for made in several.data or []]
    assert pictures[0] == (one.data or [])[0].b64_json
    assert len(set(pictures)) == 3
    assert one.size == "128x128"


def test_previews_of_a_picture(openai: OpenAI) -> None:
    with openai.images.generate(prompt="a large red circle", stream=True, partial_images=2) as stream:
        events = [event.type for event in stream]
    assert events[-1] == "image_generation.completed"
    assert 1 <= events.count("image_generation.partial_image") <= 2


def test_an_edit_keeps_what_is_not_masked(openai: OpenAI) -> None:
    given = np.random.default_rng(0).integers(0, 256, (100, 120, 4), np.uint8)
    given[..., 3] = 255
    given[40:80, 30:70, 3] = 0
    out = io.BytesIO()
    Image.fromarray(given).save(out, "png")
    edited = openai.images.edit(image=out.getvalue(), prompt="a large red circle")
    made = pixels((edited.data or [])[0].b64_json)
    kept = given[..., 3] == 255
    assert np.array_equal(made[kept], given[..., :3][kept])
    assert not np.array_equal(made[~kept], given[..., :3][~kept])


def test_an_edit_streams_what_it_keeps_from_the_first_preview_on(openai: OpenAI) -> None:
    given = np.random.default_rng(1).integers(0, 256, (128, 128, 4), np.uint8)
    given[..., 3] = 255
    given[4:124, 4:124, 3] = 0
    out = io.BytesIO()
    Image.fromarray(given).save(out, "png")
    image, kept = out.getvalue(), given[..., 3] == 255
    with openai.images.edit(image=image, prompt="a large red circle", stream=True, partial_images=3) as stream:
        *partial, last = list(stream)
    assert 1 <= len(partial) <= 3
    for event in (*partial, last):
        assert np.array_equal(pixels(event.b64_json)[kept], given[..., :3][kept])
    whole = openai.images.edit(image=image, prompt="a large red circle")
    assert last.b64_json == (whole.data or [])[0].b64_json
