import base64
import io
import json

import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image

from unmask_engine.request import AudioPart, ImagePart, TextPart, Turn


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def generate(client: httpx.Client, headers: dict[str, str] | None = None, **body: object) -> httpx.Response:
    return client.post("/v1/generate", json=body, headers=headers)


def test_a_string_in_a_text_out(client: httpx.Client) -> None:
    response = generate(client, input="hello")
    assert response.status_code == 200
    answer = response.json()
    assert answer["output"] == [{"type": "text", "text": "hello", "truncated": False}]
    assert (answer["object"], answer["model"], answer["status"]) == ("generation", "fake", "completed")
    assert answer["id"].startswith("gen_")
    assert answer["usage"] == {
        "input_tokens": {"text": 5, "audio": 0, "image": 0},
        "output_tokens": {"text": 3, "audio": 0, "image": 0},
        "steps": 2,
        "forward_passes": 2,
    }
    timings = ["queue_ms", "encode_ms", "decode_ms", "media_ms", "first_output_ms", "total_ms"]
    assert list(answer["timings"]) == timings
    assert "tokens" not in answer
    assert "x-unmask-warning" not in response.headers


def test_all_modalities_in_and_out(client: httpx.Client, engine, png: bytes, wav: bytes) -> None:
    parts = [
        {"type": "text", "text": "what is this?"},
        {"type": "image", "data": b64(png)},
        {"type": "audio", "data": "data:audio/wav;base64," + b64(wav)},
    ]
    response = generate(client, input=parts, output=["text", "audio", {"type": "image", "format": "webp"}])
    text, audio, image = response.json()["output"]
    assert text["text"] == audio["transcript"] == "what is this?"
    assert (audio["format"], audio["sample_rate"], audio["duration_s"]) == ("wav", 22050, 0.1)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(audio["data"])))
    assert (len(samples), rate) == (2205, 22050)
    assert (image["format"], image["width"], image["height"]) == ("webp", 24, 16)
    assert Image.open(io.BytesIO(base64.b64decode(image["data"]))).size == (24, 16)
    seen = engine.requests[-1]
    assert [type(part) for part in seen.parts] == [TextPart, ImagePart, AudioPart]
    assert seen.outputs == ("text", "audio", "image")


def test_multipart_files_are_the_parts_that_name_them(client: httpx.Client, engine, png: bytes) -> None:
    request = {"input": [{"type": "image", "file": "picture"}], "output": ["text"]}
    response = client.post("/v1/generate", data={"request": json.dumps(request)}, files={"picture": png})
    assert response.status_code == 200
    (part,) = engine.requests[-1].parts
    assert np.array_equal(part.pixels, np.full((20, 30, 3), 200, np.uint8))


def test_curl_need_not_name_the_content_type(client: httpx.Client) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/v1/generate", content=b'{"input": "x"}', headers=headers).status_code == 200


def test_messages_are_the_chat_form(client: httpx.Client, engine) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]
    assert generate(client, messages=messages).status_code == 200
    assert engine.requests[-1].instructions == "Be brief."
    assert engine.requests[-1].parts == (TextPart("hi"),)


def test_earlier_turns_are_the_history_and_their_picture_comes_along(client: httpx.Client, engine, png: bytes) -> None:
    picture = {"type": "image", "data": b64(png)}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "look"}, picture]},
        {"role": "assistant", "content": "a grey wall"},
        {"role": "user", "content": "is it big?"},
    ]
    assert generate(client, messages=messages).status_code == 200
    seen = engine.requests[-1]
    assert seen.history == (Turn("user", "look"), Turn("assistant", "a grey wall"))
    assert seen.instructions == "Be brief."
    image, text = seen.parts
    assert image.pixels.shape == (20, 30, 3)
    assert text == TextPart("is it big?")


def test_a_file_may_belong_to_an_earlier_turn(client: httpx.Client, engine, png: bytes) -> None:
    messages = [
        {"role": "user", "content": [{"type": "image", "file": "seen"}]},
        {"role": "assistant", "content": "a wall"},
        {"role": "user", "content": "of what?"},
    ]
    response = client.post("/v1/generate", data={"request": json.dumps({"messages": messages})}, files={"seen": png})
    assert response.status_code == 200
    assert engine.requests[-1].history == (Turn("assistant", "a wall"),)
    assert [type(part) for part in engine.requests[-1].parts] == [ImagePart, TextPart]


def test_decoding_options_reach_the_engine(client: httpx.Client, engine) -> None:
    options = {"steps": 7, "temperature": 1, "algorithm": "topk_margin", "seed": 3, "constrain": False, "top_p": None}
    assert generate(client, input="x", decoding=options, task="vqa").status_code == 200
    decoding = engine.requests[-1].decoding
    assert (decoding.steps, decoding.temperature, decoding.algorithm) == (7, 1.0, "topk_margin")
    assert (decoding.seed, decoding.constrain, decoding.top_p) == (3, False, None)
    assert engine.requests[-1].task == "vqa"


@pytest.mark.parametrize(
    ("accept", "output", "mime", "container"),
    [
        ("image/*", None, "image/png", "PNG"),
        ("image/webp", ["image"], "image/webp", "WEBP"),
        ("audio/*", ["text", "audio"], "audio/wav", "WAV"),
        ("audio/mpeg", None, "audio/mpeg", "MP3"),
        ("audio/*", [{"type": "audio", "format": "opus"}], "audio/ogg", "OGG"),
    ],
)
def test_accept_gives_the_bare_bytes(client: httpx.Client, accept, output, mime, container) -> None:
    response = generate(client, {"accept": accept}, input="x", output=output)
    assert response.headers["content-type"] == mime
    data = io.BytesIO(response.content)
    found = Image.open(data).format if mime.startswith("image") else soundfile.info(data).format
    assert found == container


def test_pcm_is_bare_samples(client: httpx.Client) -> None:
    response = generate(client, {"accept": "audio/*"}, input="x", output=[{"type": "audio", "format": "pcm"}])
    assert response.headers["content-type"] == "audio/pcm"
    assert len(response.content) == 2 * 2205


def test_a_browsers_accept_header_gets_json(client: httpx.Client) -> None:
    accept = "text/html,application/xhtml+xml,image/avif,image/webp,*/*;q=0.8"
    assert generate(client, {"accept": accept}, input="x", output=["image"]).json()["object"] == "generation"


def test_return_chooses_the_extras(client: httpx.Client) -> None:
    answer = generate(client, input="x", **{"return": ["tokens"]}).json()
    assert answer["tokens"] == [1, 2, 3]
    assert "timings" not in answer
    assert "confidence" not in answer
    answer = generate(client, input="x", **{"return": ["confidence", "tokens"]}).json()
    assert answer["confidence"] == [None, -0.5, 0.0]


def test_words_come_with_their_times_where_they_are_asked_for(client: httpx.Client) -> None:
    answer = generate(client, input="x", **{"return": ["word_timestamps"]}).json()
    assert answer["words"] == [{"word": "hello", "start": 0.01, "end": 0.5}]
    assert "words" not in generate(client, input="x").json()


def test_a_full_canvas_is_said(client: httpx.Client) -> None:
    answer = generate(client, input="cut").json()
    assert (answer["status"], answer["incomplete_reason"]) == ("incomplete", "length")
    assert answer["output"][0]["truncated"] is True


def test_unknown_top_level_fields_are_ignored_with_a_warning(client: httpx.Client) -> None:
    response = generate(client, input="x", metadata={}, **{"naïve\n": 1})
    assert response.status_code == 200
    assert response.headers["x-unmask-warning"] == 'ignored unknown fields: "metadata", "na\\u00efve\\n"'


def test_a_named_task_decides_what_comes_out(client: httpx.Client, engine) -> None:
    answer = generate(client, input="x", task="vqa").json()
    assert engine.requests[-1].outputs == ()
    assert [part["type"] for part in answer["output"]] == ["text", "audio"]


def test_models_and_version(client: httpx.Client) -> None:
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["fake"]
    assert client.get("/version").json()["name"] == "unmask"
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/docs").status_code == 200


def test_the_schema_describes_the_body(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/generate"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    properties = document["components"]["schemas"]["GenerateRequest"]["properties"]
    assert {"input", "output", "decoding", "return"} <= set(properties)
    assert "DecodingOptions" in document["components"]["schemas"]
