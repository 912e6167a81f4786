"""`/v1/images/generations` as the official client and Open WebUI use it."""

import base64
import io
from collections.abc import Iterator

import httpx
import pytest
from openai import BadRequestError, OpenAI
from openai.types import (
    ImageEditStreamEvent,
    ImageGenCompletedEvent,
    ImageGenPartialImageEvent,
    ImageGenStreamEvent,
    ImagesResponse,
)
from PIL import Image
from pydantic import TypeAdapter

from unmask_engine.omni_presets import OMNI_PRESETS
from unmask_engine.request import TextPart


@pytest.fixture(scope="module")
def engine(engine):
    engine.bundle.presets = OMNI_PRESETS
    return engine


@pytest.fixture(scope="module")
def openai(client: httpx.Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as openai:
        yield openai


def picture(data: str | None) -> tuple[str | None, tuple[int, int]]:
    assert data is not None
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return image.format, image.size


def test_a_picture(openai: OpenAI) -> None:
    answer = openai.images.generate(model="gpt-image-2", prompt="a red circle")
    ImagesResponse.model_validate(answer.model_dump())
    (made,) = answer.data or []
    assert picture(made.b64_json) == ("PNG", (24, 16))
    assert (answer.size, answer.quality, answer.output_format, answer.background) == ("24x16", "high", "png", "opaque")
    assert answer.usage is not None
    assert answer.usage.input_tokens == 5


def test_several_pictures_are_made_together(openai: OpenAI, engine) -> None:
    before = len(engine.together)
    answer = openai.images.generate(model="m", prompt="stars", n=3, extra_body={"seed": 5, "steps": 6})
    assert len(answer.data or []) == 3
    assert max(engine.together[before:]) == 3
    decodings = [request.decoding for request in engine.requests[-3:]]
    assert [decoding.seed for decoding in decodings] == [5, 6, 7]
    assert [decoding.temperature for decoding in decodings] == [0.0, 1.0, 1.0]
    assert {decoding.steps for decoding in decodings} == {6}


def test_size_and_format(openai: OpenAI) -> None:
    answer = openai.images.generate(
        prompt="x", size="512x512", output_format="webp", output_compression=50, quality="hd", style="vivid"
    )
    assert picture((answer.data or [])[0].b64_json) == ("WEBP", (512, 512))
    assert (answer.size, answer.output_format) == ("512x512", "webp")


def test_a_url_holds_the_picture(openai: OpenAI) -> None:
    answer = openai.images.generate(prompt="x", response_format="url", output_format="jpeg")
    url = (answer.data or [])[0].url or ""
    assert url.startswith("data:image/jpeg;base64,")
    assert picture(url.partition(",")[2])[0] == "JPEG"


def test_streaming(openai: OpenAI) -> None:
    with openai.images.generate(
        model="m", prompt="x", stream=True, partial_images=1, size="64x64", extra_body={"steps": 2}
    ) as stream:
        events = [TypeAdapter(ImageGenStreamEvent).validate_python(event.model_dump()) for event in stream]
    partial, completed = events
    assert isinstance(partial, ImageGenPartialImageEvent)
    assert isinstance(completed, ImageGenCompletedEvent)
    assert partial.partial_image_index == 0
    assert picture(partial.b64_json) == picture(completed.b64_json) == ("PNG", (64, 64))
    assert completed.size == "64x64"


def test_streaming_without_previews(openai: OpenAI) -> None:
    with openai.images.generate(prompt="x", stream=True, n=2) as stream:
        assert [event.type for event in stream] == ["image_generation.completed"] * 2


def painted(size: tuple[int, int], hole: tuple[int, int, int, int] | None, format: str = "png") -> bytes:
    """A picture that is transparent in a box."""
    picture, out = Image.new("RGBA", size, "red"), io.BytesIO()
    if hole is not None:
        picture.paste((0, 0, 0, 0), hole)
    picture.save(out, format)
    return out.getvalue()


def test_an_edit(openai: OpenAI, engine, png: bytes) -> None:
    mask = painted((30, 20), (5, 5, 10, 15))
    answer = openai.images.edit(
        model="m",
        image=png,
        mask=mask,
        prompt="a star",
        n=2,
        size="60x40",
        input_fidelity="high",
        extra_body={"steps": 4},
    )
    ImagesResponse.model_validate(answer.model_dump())
    assert [picture(made.b64_json) for made in answer.data or []] == [("PNG", (60, 40))] * 2
    work = engine.requests[-2]
    assert work.parts == (TextPart("a star"),)
    assert work.decoding.steps == 4
    assert work.edit.target.pixels.shape == (20, 30, 3)
    assert work.edit.mask[5:15, 5:10].all()
    assert work.edit.mask.sum() == 50


def test_an_edit_as_a_stream(openai: OpenAI) -> None:
    image = painted((32, 32), (0, 0, 8, 8))
    with openai.images.edit(image=[("a.png", image)], prompt="x", stream=True, partial_images=2) as stream:
        (event,) = [TypeAdapter(ImageEditStreamEvent).validate_python(event.model_dump()) for event in stream]
    assert event.type == "image_edit.completed"


@pytest.mark.parametrize(
    ("fields", "files", "param"),
    [
        ({}, {"image": painted((8, 8), (0, 0, 4, 4))}, "prompt"),
        ({"prompt": "x"}, {"mask": painted((8, 8), (0, 0, 4, 4))}, "image"),
        ({"prompt": "x"}, {"image": painted((8, 8), None)}, "mask"),
        ({"prompt": "x"}, {"image": b"GIF89a"}, "image"),
        ({"prompt": "x"}, {"image": painted((8, 8), None), "mask": b""}, "mask"),
        ({"prompt": "x", "size": "32x64"}, {"image": painted((8, 8), (0, 0, 4, 4))}, "size"),
        ({"prompt": "x", "n": "many"}, {"image": painted((8, 8), (0, 0, 4, 4))}, "n"),
    ],
)
def test_bad_edits(client: httpx.Client, fields: dict[str, str], files: dict[str, bytes], param: str) -> None:
    response = client.post("/v1/images/edits", data=fields, files=files)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_an_edit_of_several_pictures_is_refused(openai: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        openai.images.edit(image=[painted((8, 8), (0, 0, 4, 4))] * 2, prompt="x")
    assert (caught.value.code, caught.value.param) == ("too_many_parts", "image")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "x", "n": 11}, "n"),
        ({"prompt": "x", "size": "big"}, "size"),
        ({"prompt": "x", "size": "1536x1024"}, "size"),
        ({"prompt": "x", "size": "4096x4096"}, "size"),
        ({"prompt": "x", "background": "transparent"}, "background"),
        ({"prompt": "x", "output_format": "svg"}, "output_format"),
        ({"prompt": "x", "output_compression": 10}, "output_compression"),
        ({"prompt": "x", "response_format": "file"}, "response_format"),
        ({"prompt": "x", "partial_images": 2}, "partial_images"),
        ({"prompt": "x", "partial_images": 4, "stream": True}, "partial_images"),
        ({"prompt": "x", "steps": 0}, "steps"),
        ({"prompt": "x", "steps": 0, "stream": True, "partial_images": 1}, "steps"),
    ],
)
def test_what_cannot_be_is_refused(client: httpx.Client, body: dict[str, object], param: str) -> None:
    response = client.post("/v1/images/generations", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_nulls_are_nothing(client: httpx.Client) -> None:
    body = {"prompt": "x", "n": None, "size": None, "seed": None, "temperature": None, "user": "me"}
    assert client.post("/v1/images/generations", json=body).status_code == 200


def test_the_client_raises_what_was_wrong(openai: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="distort") as caught:
        openai.images.generate(prompt="x", size="1792x1024")
    assert caught.value.param == "size"
