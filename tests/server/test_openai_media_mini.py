"""The official client's audio and image calls, answered by the model that ships."""

import base64
import io
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
