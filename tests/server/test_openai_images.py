"""`/v1/images/generations` as the official client and Open WebUI use it."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
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


def strict(event_type: Any, event: Any) -> Any:
    """As it came, held against the type that the client only claims."""
    return TypeAdapter(event_type).validate_json(event.model_dump_json(exclude_unset=True), strict=True)


def test_a_picture(openai: OpenAI) -> None:
    raw = openai.images.with_raw_response.generate(model="gpt-image-2", prompt="a red circle")
    answer = ImagesResponse.model_validate_json(raw.text, strict=True)
    (made,) = answer.data or []
    assert picture(made.b64_json) == ("PNG", (24, 16))
    assert (answer.size, answer.quality, answer.output_format, answer.background) == ("24x16", "high", "png", "opaque")
    assert answer.usage is not None
    assert answer.usage.input_tokens == 5
    assert answer.usage.model_extra == {"steps": 2}


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


def test_streaming(openai: OpenAI, engine) -> None:
    engine.hold.set()  # an answer does not wait for its previews
    with openai.images.generate(
        model="m", prompt="x", stream=True, partial_images=1, size="64x64", extra_body={"steps": 2}
    ) as stream:
        partial = strict(ImageGenStreamEvent, next(stream))
        engine.hold.clear()
        (completed,) = [strict(ImageGenStreamEvent, event) for event in stream]
    assert isinstance(partial, ImageGenPartialImageEvent)
    assert isinstance(completed, ImageGenCompletedEvent)
    assert partial.partial_image_index == 0
    assert picture(partial.b64_json) == picture(completed.b64_json) == ("PNG", (64, 64))
    assert completed.size == "64x64"


def test_streaming_without_previews(openai: OpenAI) -> None:
    with openai.images.generate(prompt="x", stream=True, n=2) as stream:
        events = [strict(ImageGenStreamEvent, event) for event in stream]
    assert [event.type for event in events] == ["image_generation.completed"] * 2
    assert [event.usage.model_dump()["steps"] for event in events] == [2, 2]


def test_previews_as_the_native_api_asks_for_them(openai: OpenAI, engine) -> None:
    preview = {"preview": {"every_steps": 1}}
    engine.hold.set()
    with openai.images.generate(prompt="x", stream=True, extra_body=preview) as stream:
        shown = [strict(ImageGenStreamEvent, event) for event, _ in zip(stream, range(5), strict=False)]
        engine.hold.clear()
        *_, last = [strict(ImageGenStreamEvent, event) for event in stream]
    assert [event.type for event in shown] == ["image_generation.partial_image"] * 5
    assert [event.partial_image_index for event in shown] == [0, 1, 2, 3, 4]
    assert last.type == "image_generation.completed"


def test_a_shortened_schedule_has_its_previews(start, wait, new_engine) -> None:
    """The engine may plan fewer steps than were asked for; previews are spread over those that it plans."""
    new_engine.bundle.presets = OMNI_PRESETS
    with start(lambda: new_engine) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        body = {"prompt": "x", "stream": True, "partial_images": 1, "steps": 1000, "deadline_ms": 50}
        new_engine.hold.set()
        with client.stream("POST", "/v1/images/generations", json=body) as answer:
            lines = (line for line in answer.iter_lines() if line)
            assert "image_generation.partial_image" in next(lines)
            new_engine.hold.clear()
            assert ["image_generation.completed" in line for line in lines] == [True]


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
    ImagesResponse.model_validate_json(answer.model_dump_json(exclude_unset=True), strict=True)
    assert [picture(made.b64_json) for made in answer.data or []] == [("PNG", (60, 40))] * 2
    work = engine.requests[-2]
    assert work.parts == (TextPart("a star"),)
    assert work.decoding.steps == 4
    assert work.edit.target.pixels.shape == (20, 30, 3)
    assert work.edit.mask[5:15, 5:10].all()
    assert work.edit.mask.sum() == 50


def test_an_edit_as_a_stream(openai: OpenAI, engine) -> None:
    """A preview is put into the picture as the answer will be: what is not masked is there from the first on."""
    image = painted((48, 32), (16, 0, 24, 8))
    engine.hold.set()
    with openai.images.edit(
        image=[("a.png", image)], prompt="x", stream=True, partial_images=1, extra_body={"steps": 2}
    ) as stream:
        partial = strict(ImageEditStreamEvent, next(stream))
        engine.hold.clear()
        *_, completed = [strict(ImageEditStreamEvent, event) for event in stream]
    assert partial.type == "image_edit.partial_image"
    assert partial.size == "48x32"
    with Image.open(io.BytesIO(base64.b64decode(partial.b64_json))) as shown:
        seen = np.asarray(shown)
    hole = np.zeros((32, 48), bool)
    hole[:8, 16:24] = True
    assert (seen[~hole] == (255, 0, 0)).all()
    assert (seen[hole] == seen[0, 16]).all()  # the fake engine's pictures are of one grey
    assert len(set(seen[0, 16])) == 1
    assert completed.type == "image_edit.completed"


def test_an_edit_shows_as_many_previews_as_it_makes(client: httpx.Client, engine) -> None:
    engine.hold.set()
    files = {"image": painted((32, 32), (0, 0, 8, 8))}
    fields = {"prompt": "x", "stream": "true", "preview[every_steps]": "1"}
    with client.stream("POST", "/v1/images/edits", data=fields, files=files) as answer:
        lines = (line for line in answer.iter_lines() if line)
        assert all("image_edit.partial_image" in next(lines) for _ in range(5))
        engine.hold.clear()
        *_, last = lines
    assert "image_edit.completed" in last


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
        ({"prompt": "x", "preview[every_steps]": "1"}, {"image": painted((8, 8), (0, 0, 4, 4))}, "preview"),
        ({"prompt": "x", "preview[every_steps]": "x"}, {"image": painted((8, 8), (0, 0, 4, 4))}, "preview.every_steps"),
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
        ({"prompt": "x", "preview": {"every_steps": 1}}, "preview"),
        ({"prompt": "x", "stream": True, "partial_images": 1, "preview": {"every_steps": 1}}, "preview"),
        ({"prompt": "x", "stream": True, "preview": {"every_steps": 1, "confidence": True}}, "preview"),
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
