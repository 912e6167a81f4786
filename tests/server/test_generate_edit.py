"""Edits and streams over a real socket: the wire with the fake engine, the promises with the built-in model."""

import base64
import io
import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from unmask_engine.engine import Engine
from unmask_engine.media import write_audio, write_image
from unmask_engine.request import (
    AudioPart,
    Edit,
    GenerationRequest,
    ImagePart,
    JointEdit,
    Span,
    TextPart,
    Whole,
    WordSpan,
)

PIXELS = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)
SAMPLES = (np.sin(np.arange(16000) / 9) / 2).astype(np.float32)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png_mask(open_: np.ndarray) -> bytes:
    """Transparent where `open_` (H, W) is True."""
    out = io.BytesIO()
    Image.fromarray(np.where(open_, 0, 255).astype(np.uint8)).convert("L").save(out, "png")
    alpha = Image.open(out)
    picture = Image.new("RGBA", alpha.size, "white")
    picture.putalpha(alpha)
    made = io.BytesIO()
    picture.save(made, "png")
    return made.getvalue()


def last_edit(engine) -> Edit:
    edit = engine.requests[-1].edit
    assert edit is not None
    return edit


def test_an_image_and_its_mask_reach_the_engine(client: httpx.Client, engine) -> None:
    open_ = np.zeros((20, 30), np.bool_)
    open_[5:10, 8:20] = True
    target = {"type": "image", "data": b64(write_image(ImagePart(PIXELS), "png"))}
    body = {"input": "a cat", "edit": {"target": target, "mask": b64(png_mask(open_))}}
    answer = client.post("/v1/generate", json=body)
    assert answer.status_code == 200
    assert [part["type"] for part in answer.json()["output"]] == ["image"]
    edit = last_edit(engine)
    assert np.array_equal(edit.target.pixels, PIXELS)
    assert np.array_equal(edit.mask, open_)


def test_previews_of_an_edit_hold_what_is_kept(client: httpx.Client, engine) -> None:
    open_ = np.zeros((20, 30), np.bool_)
    open_[5:10, 8:20] = True
    target = {"type": "image", "data": b64(write_image(ImagePart(PIXELS), "png"))}
    body = {"input": "a cat", "edit": {"target": target, "mask": b64(png_mask(open_))}}
    engine.hold.set()
    with client.stream("POST", "/v1/generate", json=body | {"stream": True, "preview": {"every_steps": 1}}) as answer:
        preview = next(json.loads(line[6:]) for line in answer.iter_lines() if "image.preview" in line)
        engine.hold.clear()
    with Image.open(io.BytesIO(base64.b64decode(preview["data"]))) as shown:
        seen = np.asarray(shown)
    assert np.array_equal(seen[~open_], PIXELS[~open_])
    assert (seen[open_] == seen[5, 8, 0]).all()  # the fake engine's pictures are of one grey


def test_files_of_a_multipart_body_may_be_target_and_mask(client: httpx.Client, engine) -> None:
    request = {"input": "x", "edit": {"target": {"type": "image", "file": "a"}, "mask": {"file": "b"}}}
    files = {"a": write_image(ImagePart(PIXELS), "png"), "b": png_mask(np.ones((20, 30), np.bool_))}
    headers = {"accept": "image/*"}
    response = client.post("/v1/generate", data={"request": json.dumps(request)}, files=files, headers=headers)
    assert response.headers["content-type"] == "image/png"
    assert last_edit(engine).mask.all()


def test_spans_and_holes_reach_the_engine(client: httpx.Client, engine) -> None:
    target = {"type": "audio", "data": b64(write_audio(AudioPart(SAMPLES, 16000), "wav"))}
    spans = [{"start": 0.25, "end": 1, "text": "Tuesday"}]
    body = {"input": "on Tuesday", "edit": {"target": target, "spans": spans}}
    assert client.post("/v1/generate", json=body).status_code == 200
    assert last_edit(engine).spans == (Span(0.25, 1.0, "Tuesday"),)
    spans = [{"words": "Monday", "text": "Tuesday"}]
    body = {"input": "on Tuesday", "edit": {"target": target, "spans": spans, "transcript": "on Monday"}}
    assert client.post("/v1/generate", json=body).status_code == 200
    assert last_edit(engine).spans == (WordSpan("Monday", "Tuesday"),)
    assert last_edit(engine).transcript == "on Monday"
    body = {"input": "x", "edit": {"target": {"type": "text", "text": "a [MASK:2]"}}}
    assert client.post("/v1/generate", json=body).status_code == 200
    assert last_edit(engine) == Edit(TextPart("a [MASK:2]"))


def picture_and_caption() -> tuple[list[dict], np.ndarray]:
    """An edit of both, and which pixels of the picture are to be drawn."""
    open_ = np.zeros((20, 30), np.bool_)
    open_[5:10, 8:20] = True
    picture = {"type": "image", "data": b64(write_image(ImagePart(PIXELS), "png"))}
    caption = {"type": "text", "text": "a [MASK:1] circle"}
    return [{"target": picture, "mask": b64(png_mask(open_))}, {"target": caption}], open_


def test_several_targets_reach_the_engine_together(client: httpx.Client, engine) -> None:
    edits, open_ = picture_and_caption()
    answer = client.post("/v1/generate", json={"input": "a cat", "edit": edits})
    assert answer.status_code == 200, answer.text
    assert [part["type"] for part in answer.json()["output"]] == ["text", "image"]
    joint = engine.requests[-1].edit
    assert isinstance(joint, JointEdit)
    picture, caption = joint.edits
    assert np.array_equal(picture.mask, open_)
    assert caption == Edit(TextPart("a [MASK:1] circle"))


def test_several_targets_may_do_without_an_input_and_without_content(client: httpx.Client, engine) -> None:
    edits = [{"target": {"type": "image"}}, {"target": {"type": "text", "text": "a [MASK:1]"}}]
    answer = client.post("/v1/generate", json={"edit": edits, "output": ["image"]})
    assert answer.status_code == 200, answer.text
    assert engine.requests[-1].parts == ()
    assert engine.requests[-1].edit == JointEdit((Whole("image"), Edit(TextPart("a [MASK:1]"))))


def test_a_list_of_one_edit_is_that_edit(client: httpx.Client, engine) -> None:
    body = {"input": "x", "edit": [{"target": {"type": "text", "text": "a [MASK:2]"}}]}
    assert client.post("/v1/generate", json=body).status_code == 200
    assert last_edit(engine) == Edit(TextPart("a [MASK:2]"))


def test_files_of_a_multipart_body_may_be_in_any_target(client: httpx.Client, engine) -> None:
    edits = [
        {"target": {"type": "image", "file": "a"}, "mask": {"file": "b"}},
        {"target": {"type": "text", "text": "x"}},
    ]
    files = {"a": write_image(ImagePart(PIXELS), "png"), "b": png_mask(np.ones((20, 30), np.bool_))}
    response = client.post("/v1/generate", data={"request": json.dumps({"edit": edits})}, files=files)
    assert response.status_code == 200, response.text
    assert np.array_equal(engine.requests[-1].edit.edits[0].target.pixels, PIXELS)


@pytest.fixture(scope="module")
def built_in() -> Engine:
    return Engine.load("unmask-mini")


@pytest.fixture(scope="module")
def mini(built_in: Engine, start, wait) -> Iterator[httpx.Client]:
    with start(lambda: built_in) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        yield client


def stream(client: httpx.Client, **body: object) -> list[dict]:
    response = client.post("/v1/generate", json={"stream": True, **body})
    lines = [line for line in response.text.split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_streamed_speech_and_text_are_the_whole(mini: httpx.Client) -> None:
    picture = {"type": "image", "data": b64(write_image(ImagePart(PIXELS), "png"))}
    question = {"type": "audio", "data": b64(write_audio(AudioPart(SAMPLES, 16000), "wav"))}
    body = {
        "input": [picture, question],
        "output": ["text", {"type": "audio", "format": "pcm"}],
        "decoding": {"block_size": 16},
    }
    events = stream(mini, preview={"every_steps": 1}, **{"return": ["tokens", "confidence"]}, **body)
    text, audio = events[-1]["output"]
    assert "".join(event["text"] for event in events if event["type"] == "text.delta") == text["text"]
    pcm = [base64.b64decode(event["audio"]) for event in events if event["type"] == "audio.delta"]
    assert b"".join(pcm) == base64.b64decode(audio["data"])
    commits = {
        at: token
        for event in events
        if event["type"] == "tokens.commit"
        for at, token in zip(event["positions"], event["ids"], strict=True)
    }
    scores = events[-1]["confidence"]
    assert commits == {at: token for at, token in enumerate(events[-1]["tokens"]) if scores[at] is not None}
    whole = mini.post("/v1/generate", json=body).json()
    assert whole["output"] == events[-1]["output"]


def test_an_edited_recording_keeps_its_samples_over_the_wire(mini: httpx.Client) -> None:
    recording = write_audio(AudioPart(SAMPLES, 16000), "wav")
    body = {
        "input": "a red circle",
        "output": [{"type": "audio", "format": "pcm"}],
        "edit": {"target": {"type": "audio", "data": b64(recording)}, "spans": [{"start": 0.3, "end": 0.5}]},
    }
    events = stream(mini, **body)
    (audio,) = events[-1]["output"]
    assert audio["sample_rate"] == 16000
    made = np.frombuffer(base64.b64decode(audio["data"]), "<i2")
    given = np.frombuffer(recording[-2 * len(SAMPLES) :], "<i2")
    assert np.array_equal(made[:4800], given[:4800])
    assert np.array_equal(made[8000:], given[8000:])
    assert not np.array_equal(made, given)
    pcm = [base64.b64decode(event["audio"]) for event in events if event["type"] == "audio.delta"]
    assert b"".join(pcm) == base64.b64decode(audio["data"])


def test_a_picture_and_its_caption_are_streamed_as_they_are_answered(mini: httpx.Client) -> None:
    edits, open_ = picture_and_caption()
    body = {"edit": edits, "decoding": {"steps": 6}}
    events = stream(mini, preview={"every_steps": 2}, **{"return": ["tokens", "confidence"]}, **body)
    text, image = events[-1]["output"]
    assert "".join(event["text"] for event in events if event["type"] == "text.delta") == text["text"]
    assert text["text"].startswith("a ")
    assert text["text"].endswith(" circle")
    pictures = [event for event in events if event["type"] in ("image.preview", "image.done")]
    assert pictures[-1]["data"] == image["data"]
    for event in pictures:
        with Image.open(io.BytesIO(base64.b64decode(event["data"]))) as shown:
            assert np.array_equal(np.asarray(shown)[~open_], PIXELS[~open_])
    told = {
        at: token
        for event in events
        if event["type"] == "tokens.commit"
        for at, token in zip(event["positions"], event["ids"], strict=True)
    }
    last = events[-1]
    assert told == {at: last["tokens"][at] for at, score in enumerate(last["confidence"]) if score is not None}
    steps = [event for event in events if event["type"] == "generation.step"]
    assert [event["step"] for event in steps] == list(range(1, last["usage"]["steps"] + 1))
    assert steps[-1]["committed"] == steps[-1]["total"] == len(last["tokens"])
    assert mini.post("/v1/generate", json=body).json()["output"] == last["output"]


def test_a_mistake_of_one_of_several_targets_names_it(mini: httpx.Client) -> None:
    edits, _ = picture_and_caption()
    edits[0]["mask"] = b64(png_mask(np.ones((30, 20), np.bool_)))
    response = mini.post("/v1/generate", json={"edit": edits, "stream": True})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "edit[0].mask")
    edits[0] = edits[1]
    response = mini.post("/v1/generate", json={"edit": edits})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "edit[1].target")


def test_a_mistake_of_an_edit_is_a_400_before_the_stream(mini: httpx.Client) -> None:
    target = {"type": "image", "data": b64(write_image(ImagePart(PIXELS), "png"))}
    mask = b64(png_mask(np.ones((30, 20), np.bool_)))
    body = {"input": "a cat", "edit": {"target": target, "mask": mask}, "stream": True}
    response = mini.post("/v1/generate", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "edit.mask")


def test_a_picture_and_half_of_its_caption_give_the_rest(mini: httpx.Client) -> None:
    picture = {"type": "image", "data": b64(write_image(ImagePart(PIXELS), "png"))}
    body = {"input": [picture], "edit": {"target": {"type": "text", "text": "a [MASK:1] circle"}}}
    answer = mini.post("/v1/generate", json=body, timeout=120).json()
    assert answer["task"] == "caption"
    text = answer["output"][0]["text"]
    assert text.startswith("a ")
    assert text.endswith(" circle")
    assert "MASK" not in text


def test_the_built_in_model_says_whether_it_tells_when_words_are_said(mini: httpx.Client, built_in: Engine) -> None:
    body = {"input": "a red circle", "output": ["audio"], "return": ["word_timestamps"]}
    response = mini.post("/v1/generate", json=body)
    if built_in.bundle.word_clock is None:
        assert (response.status_code, response.json()["error"]["param"]) == (400, "return")
    else:
        assert [word["word"] for word in response.json()["words"]] == ["a", "red", "circle"]


def test_the_engine_gives_what_the_stream_gave(mini: httpx.Client, built_in: Engine) -> None:
    events = stream(mini, input="a red circle", output=["audio"], **{"return": ["tokens"]})
    request = GenerationRequest((TextPart("a red circle"),), ("audio",))
    assert events[-1]["tokens"] == list(Engine(built_in.bundle).generate([request])[0].token_ids)
