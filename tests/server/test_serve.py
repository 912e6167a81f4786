"""`unmask serve` as a user starts it: a process, a bundle from disk, a socket, real media both ways."""

import base64
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import soundfile
from PIL import Image


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the URL from its one line."""
    script = "import sys; from unmask_server.cli import main; sys.argv[0] = 'unmask'; main()"
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}  # threads fight over a busy machine
    command = [sys.executable, "-c", script, "serve", "--model", str(tiny_bundle), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"Unmask serves tiny at (http://127\.0\.0\.1:\d+) \(API: /docs\)\n", line)
        assert found, line
        yield process, found[1]
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_text_to_image_and_image_to_text(server) -> None:
    with httpx.Client(base_url=server[1], timeout=60) as client:
        assert client.get("/ready").json() == {"status": "ready", "model": "tiny"}
        assert "t2i" in client.get("/v1/models").json()["data"][0]["tasks"]
        drawn = client.post("/v1/generate", json={"input": "a red circle"}, headers={"accept": "image/*"})
        assert drawn.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(drawn.content)) as image:
            assert image.size == (32, 32)
        parts = [{"type": "image", "data": base64.b64encode(drawn.content).decode()}]
        answer = client.post("/v1/generate", json={"input": parts, "decoding": {"max_tokens": 8}}).json()
        assert answer["task"] == "caption"
        assert answer["usage"]["input_tokens"]["image"] == 4
        assert answer["usage"]["steps"] <= 8


def test_text_to_speech_and_speech_to_text(server) -> None:
    with httpx.Client(base_url=server[1], timeout=60) as client:
        body = {"input": "hello", "task": "tts", "decoding": {"max_tokens": 12, "seed": 1, "temperature": 1.0}}
        spoken = client.post("/v1/generate", json=body).json()
        (audio,) = spoken["output"]
        data = base64.b64decode(audio["data"])
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            assert sound.samplerate == 22050
        parts = [{"type": "audio", "data": base64.b64encode(data).decode()}]
        answer = client.post("/v1/generate", json={"input": parts})
        assert answer.status_code in (200, 400)  # random weights may say too little to be heard


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"decoding": {"steps": 0}}, "steps_out_of_range"),
        ({"decoding": {"max_tokens": -5}}, "max_tokens_out_of_range"),
        ({"decoding": {"top_p": 7}}, "top_p_out_of_range"),
        ({"task": "dance"}, "task_unknown"),
        ({"task": "asr", "output": ["text"]}, "input_unsuitable"),
        ({"output": ["text", "image"]}, "modalities_unsupported"),
        ({"input": "   ", "output": ["image"]}, "text_empty"),
        ({"input": "x" * 20_000, "output": ["image"]}, "input_too_long"),
    ],
)
def test_what_the_engine_refuses_is_a_400(server, body, code: str) -> None:
    response = httpx.post(f"{server[1]}/v1/generate", json={"input": "x", "output": ["audio"]} | body, timeout=60)
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)
    assert response.json()["error"]["param"]
    assert httpx.get(f"{server[1]}/ready", timeout=60).status_code == 200


def test_a_click_is_too_short_to_be_heard(server) -> None:
    sound = io.BytesIO()
    soundfile.write(sound, [0.0] * 160, 16_000, format="WAV")  # 10 ms
    body = {"input": [{"type": "audio", "data": base64.b64encode(sound.getvalue()).decode()}]}
    response = httpx.post(f"{server[1]}/v1/generate", json=body, timeout=60)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "audio_too_short")


def test_it_stops_when_told(server) -> None:
    process, _ = server
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
