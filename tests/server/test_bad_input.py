"""What clients send by mistake or on purpose: always the envelope, always a way to mend it, and the server lives on."""

import base64
import json
import logging
import socket

import httpx
import numpy as np
import pytest

from unmask_engine.media import write_image
from unmask_engine.request import ImagePart


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def failed(response: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert response.headers["x-request-id"]
    assert "Traceback" not in response.text
    message: str = error["message"]
    return message


@pytest.fixture(autouse=True)
def _lives_on(client: httpx.Client):
    yield
    assert client.post("/v1/generate", json={"input": "still there?"}).status_code == 200


def said(*roles: str) -> dict[str, object]:
    return {"input": None, "messages": [{"role": role, "content": "x"} for role in roles]}


TEXT = {"type": "text", "text": "A [MASK:1]."}
PIXEL = write_image(ImagePart(np.zeros((1, 1, 3), np.uint8)), "png")
SHOWN = {"role": "user", "content": [{"type": "image", "data": b64(PIXEL)}]}
BAD_BODIES = {
    "steps 0": ({"decoding": {"steps": 0}}, "steps_out_of_range", "decoding.steps"),
    "steps no number": ({"decoding": {"steps": "many"}}, "invalid_value", "decoding.steps"),
    "steps a fraction": ({"decoding": {"steps": 1.5}}, "invalid_value", "decoding.steps"),
    "a seed of 400 digits": ({"decoding": {"seed": 10**400}}, "invalid_value", "decoding.seed"),
    "too much text": ({"input": "x" * 200_001}, "invalid_value", "input[0].text"),
    "unknown algorithm": ({"decoding": {"algorithm": "magic"}}, "invalid_value", "decoding.algorithm"),
    "unknown field in decoding": ({"decoding": {"tempreature": 1}}, "unknown_field", "decoding.tempreature"),
    "unknown task": ({"task": "dance"}, "task_unknown", "task"),
    "unknown output": ({"output": ["smell"]}, "invalid_value", "output[0].type"),
    "no output": ({"output": []}, "invalid_request", "output"),
    "an output twice": ({"output": ["text", "text"]}, "invalid_request", "output"),
    "a format of another kind": ({"output": [{"type": "image", "format": "wav"}]}, "invalid_value", "output[0]"),
    "an unknown voice": ({"output": [{"type": "audio", "voice": "bob"}]}, "invalid_value", "output[0].voice"),
    "output no list": ({"output": "text"}, "invalid_value", "output"),
    "a million outputs": ({"output": ["text"] * 1000}, "invalid_value", "output"),
    "a million parts": ({"input": [{"type": "text", "text": "x"}] * 1000}, "invalid_value", "input"),
    "a long name": ({"model": "x" * 201}, "invalid_value", "model"),
    "one part instead of a list": ({"input": {"type": "text", "text": "x"}}, "invalid_value", "input"),
    "empty input": ({"input": []}, "missing_input", "input"),
    "input and messages": ({"messages": [{"role": "user", "content": "x"}]}, "missing_input", "input"),
    "no messages": ({"input": None, "messages": []}, "missing_input", "messages"),
    "an answer last": (said("user", "assistant"), "invalid_request", "messages[1].role"),
    "a system message alone": (said("system"), "invalid_request", "messages[0].role"),
    "a late system message": (said("user", "system", "user"), "invalid_request", "messages[1].role"),
    "instructions twice": (
        said("system", "user") | {"instructions": "x"},
        "invalid_request",
        "messages[0].content",
    ),
    "an empty message": (
        {"input": None, "messages": [{"role": "user", "content": []}]},
        "missing_input",
        "messages[0].content",
    ),
    "two pictures": (
        {"input": None, "messages": [SHOWN, SHOWN]},
        "too_many_parts",
        "messages[1].content[0]",
    ),
    "a long dialogue": (said(*["user"] * 1001), "invalid_value", "messages"),
    "a number as input": ({"input": 5}, "invalid_value", "input"),
    "an unknown part": ({"input": [{"type": "video", "data": "x"}]}, "invalid_value", "input[0].type"),
    "text without text": ({"input": [{"type": "text", "data": "x"}]}, "invalid_value", "input[0]"),
    "media without data": ({"input": [{"type": "image"}]}, "invalid_value", "input[0]"),
    "no base64": ({"input": [{"type": "image", "data": "not base64!"}]}, "invalid_base64", "input[0].data"),
    "no base64 URL": ({"input": [{"type": "image", "data": "data:image/png,x"}]}, "invalid_base64", "input[0].data"),
    "a remote URL": (
        {"input": [{"type": "image", "data": "http://169.254.169.254/"}]},
        "remote_media_refused",
        "input[0].data",
    ),
    "a file not sent": ({"input": [{"type": "image", "file": "p"}]}, "missing_file", "input[0].file"),
    "no image bytes": ({"input": [{"type": "image", "data": ""}]}, "empty_media", "input[0].data"),
    "an edit of nothing": ({"edit": {}}, "invalid_value", "edit.target"),
    "an edit of text without text": ({"edit": {"target": {"type": "text"}}}, "invalid_value", "edit.target"),
    "an unknown field of an edit": ({"edit": {"target": TEXT, "prompt": "x"}}, "unknown_field", "edit.prompt"),
    "an edit of no content": ({"edit": {"target": {"type": "image"}}}, "missing_input", "edit.target"),
    "no edits": ({"edit": []}, "invalid_value", "edit"),
    "an edit that is a number": ({"edit": 5}, "invalid_value", "edit"),
    "a thousand edits": ({"edit": [{"target": TEXT}] * 1000}, "invalid_value", "edit"),
    "a bad one among edits": (
        {"edit": [{"target": TEXT}, {"target": {"type": "text"}}]},
        "invalid_value",
        "edit[1].target",
    ),
    "no base64 among edits": (
        {"edit": [{"target": TEXT}, {"target": {"type": "image", "data": "?"}}]},
        "invalid_base64",
        "edit[1].target.data",
    ),
    "a mask on nothing": ({"edit": [{"target": {"type": "image"}, "mask": "x"}]}, "invalid_value", "edit[0]"),
    "a mask of another kind": (
        {"edit": {"target": TEXT, "mask": {"type": "audio", "data": ""}}},
        "invalid_value",
        "edit",
    ),
    "a mask that is no image": ({"edit": {"target": TEXT, "mask": b64(b"x" * 99)}}, "unsupported_media", "edit.mask"),
    "a mask not sent": ({"edit": {"target": TEXT, "mask": {"file": "m"}}}, "missing_file", "edit.mask.file"),
    "a span of words": (
        {"edit": {"target": TEXT, "spans": [{"start": "a", "end": 1}]}},
        "invalid_value",
        "edit.spans[0].start",
    ),
    "previews without a stream": ({"preview": {"every_steps": 4}}, "not_supported", "preview"),
    "a span without a place": ({"edit": {"target": TEXT, "spans": [{"start": 1}]}}, "invalid_value", "edit.spans[0]"),
    "a span in two places": (
        {"edit": {"target": TEXT, "spans": [{"start": 0, "end": 1, "words": "x"}]}},
        "invalid_value",
        "edit.spans[0]",
    ),
    "an unknown extra": ({"return": ["money"]}, "invalid_value", "return[0]"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_is_a_400_that_names_the_field(client: httpx.Client, name: str) -> None:
    body, code, param = BAD_BODIES[name]
    status = 415 if code == "unsupported_media" else 400
    failed(client.post("/v1/generate", json={"input": "x"} | body), status, code, param)


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'"x"', b'{"input": "\xff"}', b"[" * 100_000])
def test_what_is_not_json(client: httpx.Client, text: bytes) -> None:
    response = client.post("/v1/generate", content=text, headers={"content-type": "application/json"})
    assert response.json()["error"]["code"] in ("invalid_json", "invalid_value")
    assert response.status_code == 400


def test_half_a_character(client: httpx.Client) -> None:
    text = b'{"input": "\\ud800"}'
    response = client.post("/v1/generate", content=text, headers={"content-type": "application/json"})
    failed(response, 400, "invalid_json")


def test_a_client_that_leaves_halfway(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(b"POST /v1/generate HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")


def test_numbers_that_are_none(client: httpx.Client) -> None:
    text = b'{"input": "x", "decoding": {"temperature": NaN}}'
    response = client.post("/v1/generate", content=text, headers={"content-type": "application/json"})
    assert response.status_code == 400


def test_media_that_is_something_else(client: httpx.Client, png: bytes, wav: bytes, bomb: bytes) -> None:
    def send(kind: str, data: bytes) -> httpx.Response:
        return client.post("/v1/generate", json={"input": [{"type": kind, "data": b64(data)}]})

    failed(send("image", b"hello, world, this is text"), 415, "unsupported_media", "input[0].data")
    failed(send("image", wav), 415, "unsupported_media", "input[0].data")
    failed(send("audio", png), 415, "unsupported_media", "input[0].data")
    failed(send("image", png[: len(png) // 2]), 400, "invalid_image", "input[0].data")
    failed(send("audio", wav[: len(wav) // 2]), 400, "invalid_audio", "input[0].data")
    failed(send("image", bomb), 400, "image_too_large", "input[0].data")


def test_three_hours_of_sound_in_a_small_file(client: httpx.Client) -> None:
    import io

    import numpy as np
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, np.zeros(3 * 3600 * 8000, np.int16), 8000, format="FLAC")
    assert len(out.getvalue()) < 1_000_000
    response = client.post("/v1/generate", json={"input": [{"type": "audio", "data": b64(out.getvalue())}]})
    failed(response, 400, "audio_too_long", "input[0].data")


def test_a_body_above_the_limit(client: httpx.Client) -> None:
    text = json.dumps({"input": "x" * 3_000_000})
    headers = {"content-type": "application/json"}
    failed(client.post("/v1/generate", content=text, headers=headers), 413, "request_too_large")
    pieces = (text[i : i + 65_536].encode() for i in range(0, len(text), 65_536))  # chunked: no length is announced
    failed(client.post("/v1/generate", content=pieces, headers=headers), 413, "request_too_large")


def test_multipart_mistakes(client: httpx.Client, png: bytes) -> None:
    failed(client.post("/v1/generate", files={"picture": png}), 400, "invalid_request", "request")
    request = {"request": json.dumps({"input": "x"})}
    failed(
        client.post("/v1/generate", data=request | {"steps": "3"}, files={"p": png}), 400, "invalid_request", "steps"
    )
    failed(client.post("/v1/generate", data=request, files={"p": png}), 400, "unused_file", "p")
    twice = [("p", png), ("p", png)]
    failed(client.post("/v1/generate", data=request, files=twice), 400, "invalid_request", "p")
    headers = {"content-type": "multipart/form-data; boundary=x"}
    failed(client.post("/v1/generate", content=b"garbage", headers=headers), 400, "invalid_multipart")
    headers = {"content-type": "multipart/form-data"}
    failed(client.post("/v1/generate", content=b"garbage", headers=headers), 400, "invalid_multipart")


def test_other_content_types(client: httpx.Client) -> None:
    response = client.post("/v1/generate", content=b"x", headers={"content-type": "text/plain"})
    failed(response, 415, "unsupported_media_type", "content-type")


def test_accept_that_cannot_be_met(client: httpx.Client) -> None:
    body = {"input": "x", "output": ["text"]}
    failed(client.post("/v1/generate", json=body, headers={"accept": "image/*"}), 400, "invalid_request", "accept")
    failed(client.post("/v1/generate", json=body, headers={"accept": "image/bmp"}), 400, "invalid_request", "accept")
    body = {"input": "x", "output": [{"type": "image", "format": "jpeg"}]}
    failed(client.post("/v1/generate", json=body, headers={"accept": "image/png"}), 400, "invalid_request", "accept")


def test_another_model(client: httpx.Client) -> None:
    response = client.post("/v1/generate", json={"input": "x", "model": "gpt"})
    assert "fake" in failed(response, 404, "model_not_found", "model")


def test_no_such_place_and_no_such_method(client: httpx.Client) -> None:
    failed(client.get("/v1/nothing"), 404, "not_found")
    response = client.get("/v1/generate")
    assert "POST" in failed(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_a_crash_leaks_nothing(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    response = client.post("/v1/generate", json={"input": "crash"}, headers={"x-request-id": "mine-1"})
    message = failed(response, 500, "internal_error")
    assert "secret" not in response.text
    assert "mine-1" in message
    assert response.headers["x-request-id"] == "mine-1"


def test_a_forged_request_id_is_replaced(client: httpx.Client) -> None:
    response = client.get("/health", headers={"x-request-id": "a b<script>"})
    assert response.headers["x-request-id"].startswith("req_")
