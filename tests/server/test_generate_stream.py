"""Streams of `POST /v1/generate` over a real socket."""

import base64
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from unmask_server.settings import Settings

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


def stream(client: httpx.Client, **body: object) -> tuple[httpx.Response, list[dict]]:
    """The events of a whole stream, which must end in [DONE]."""
    response = client.post("/v1/generate", json={"stream": True, **body})
    assert response.headers["content-type"] == HEADERS["content-type"], response.text
    lines = [line for line in response.content.decode("ascii").split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    return response, [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def of_type(events: list[dict], *types: str) -> list[dict]:
    return [event for event in events if event["type"] in types]


def ready(client: httpx.Client) -> bool:
    return client.get("/ready").status_code == 200


def test_words_come_with_the_end_of_the_speech(client: httpx.Client) -> None:
    _, events = stream(client, input="hello", output=["audio"], **{"return": ["word_timestamps"]})
    (done,) = of_type(events, "audio.done")
    assert done["words"] == events[-1]["words"] == [{"word": "hello", "start": 0.01, "end": 0.5}]
    _, events = stream(client, input="hello", output=["audio"])
    assert "words" not in of_type(events, "audio.done")[0]


def test_events_come_in_order_and_add_up_to_the_answer(client: httpx.Client) -> None:
    outputs = ["text", {"type": "audio", "format": "pcm"}, {"type": "image", "format": "webp"}]
    response, events = stream(client, input="one two three four five six", output=outputs)
    assert {name: response.headers[name] for name in HEADERS} == HEADERS
    assert response.headers["x-request-id"]
    assert [event["sequence"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "generation.created"
    ends = [event["type"] for event in events if event["type"].endswith(("done", "completed"))]
    assert ends == ["text.done", "audio.done", "image.done", "generation.completed"]
    answer = events[-1]
    text, audio, image = answer["output"]
    deltas = of_type(events, "text.delta")
    assert [delta["text"] for delta in deltas] == ["one two", " three four", " five six"]
    assert of_type(events, "text.done")[0]["text"] == text["text"] == "one two three four five six"
    pieces = of_type(events, "audio.delta")
    assert len(pieces) == 3
    assert b"".join(base64.b64decode(piece["audio"]) for piece in pieces) == base64.b64decode(audio["data"])
    assert {(piece["format"], piece["sample_rate"]) for piece in pieces} == {("pcm", 22050)}
    assert of_type(events, "audio.done")[0]["duration_s"] == audio["duration_s"] == 0.1
    (picture,) = of_type(events, "image.done")
    assert {name: picture[name] for name in ("format", "width", "height", "data")} == {
        name: image[name] for name in ("format", "width", "height", "data")
    }
    assert answer["id"] == events[0]["id"]
    assert [step["step"] for step in of_type(events, "generation.step")] == [1, 2]


def test_the_answer_is_the_one_without_a_stream(client: httpx.Client) -> None:
    body = {"input": "one two", "output": ["text", "audio"], "return": ["tokens", "confidence"]}
    _, events = stream(client, **body)
    whole = client.post("/v1/generate", json=body).json()
    for name in ("task", "output", "usage", "tokens", "confidence", "status"):
        assert events[-1][name] == whole[name]


def test_what_is_not_asked_for_is_not_sent(client: httpx.Client) -> None:
    _, events = stream(client, input="one two three", output=["text"])
    assert not [event["type"] for event in events if event["type"].startswith(("audio", "image", "tokens"))]


def test_a_named_task_decides_what_comes_out(client: httpx.Client) -> None:
    _, events = stream(client, input="x", task="vqa")
    assert {event["type"] for event in events} >= {"text.done", "audio.done"}


def test_previews_show_the_unmasking(client: httpx.Client) -> None:
    _, events = stream(client, input="x", output=["image"], preview={"every_steps": 1, "confidence": True})
    commits = of_type(events, "tokens.commit")
    assert [(c["step"], c["positions"], c["ids"], c["confidence"]) for c in commits] == [
        (1, [0], [1], [-0.5]),
        (2, [1], [2], [-0.5]),
    ]
    assert of_type(events, "tokens.guess")[0]["confidence"] == [-1.0]
    _, events = stream(client, input="x", output=["text"], preview={"every_steps": 2})
    assert "confidence" not in of_type(events, "tokens.commit")[0]
    assert [guess["step"] for guess in of_type(events, "tokens.guess")] == [2]


def test_previews_of_a_picture(client: httpx.Client, engine) -> None:
    body = {"input": "x", "output": ["image"], "stream": True, "preview": {"every_steps": 3}}
    engine.hold.set()
    with client.stream("POST", "/v1/generate", json=body) as response:
        previews = []
        for line in response.iter_lines():
            if "image.preview" in line:
                previews.append(json.loads(line[6:]))
                engine.hold.clear()
    assert all(preview["step"] % 3 == 0 for preview in previews)
    assert base64.b64decode(previews[0]["data"]).startswith(b"\x89PNG")


def test_the_first_output_is_timed(start, wait, new_engine) -> None:
    with start(lambda: new_engine) as client:
        wait(lambda: ready(client))
        new_engine.hold.set()
        with client.stream("POST", "/v1/generate", json={"input": "a b c d", "stream": True}) as response:
            events = []
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    events.append(json.loads(line[6:]))
                    if events[-1]["type"] == "text.delta" and new_engine.hold.is_set():
                        time.sleep(0.3)
                        new_engine.hold.clear()
        timings = events[-1]["timings"]
        assert timings["first_output_ms"] < timings["total_ms"] - 290


@pytest.mark.parametrize(
    ("body", "headers", "param"),
    [
        ({"decoding": {"steps": -1}}, {}, "decoding.steps"),
        ({"output": ["image"]}, {"accept": "image/*"}, "stream"),
        ({"preview": {"confidence": True}}, {}, "preview.confidence"),
        ({"preview": {"every_steps": 1}, "stream": False}, {}, "preview"),
    ],
)
def test_mistakes_are_plain_errors(client: httpx.Client, body, headers, param) -> None:
    response = client.post("/v1/generate", json={"input": "x", "stream": True} | body, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_full_queue_refuses_before_the_stream(start, wait, new_engine) -> None:
    with start(lambda: new_engine, Settings(max_queue=0, max_batch=1)) as client, ThreadPoolExecutor() as pool:
        wait(lambda: ready(client))
        new_engine.hold.set()
        running = pool.submit(client.post, "/v1/generate", json={"input": "x"})
        wait(lambda: new_engine.together[-1:] == [1])
        response = client.post("/v1/generate", json={"input": "x", "stream": True})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
        new_engine.hold.clear()
        assert running.result().status_code == 200


def test_who_waits_is_told(start, wait, new_engine) -> None:
    with start(lambda: new_engine, Settings(max_batch=1)) as client, ThreadPoolExecutor() as pool:
        wait(lambda: ready(client))
        new_engine.hold.set()
        first = pool.submit(client.post, "/v1/generate", json={"input": "x"})
        wait(lambda: new_engine.together[-1:] == [1])
        with client.stream("POST", "/v1/generate", json={"input": "y", "stream": True}) as response:
            lines = (line for line in response.iter_lines() if line)
            next(lines)
            queued = json.loads(next(lines)[6:])
            assert (queued["type"], queued["position"]) == ("generation.queued", 1)
            new_engine.hold.clear()
            assert list(lines)[-1] == "data: [DONE]"
        assert first.result().status_code == 200


@pytest.mark.parametrize("crash", ["crash", "crash in the codec"])
def test_a_failure_on_the_way_is_an_event(client: httpx.Client, crash) -> None:
    _, events = stream(client, input=crash)
    assert events[0]["type"] == "generation.created"
    assert list(events[-1]) == ["error"]
    assert (events[-1]["error"]["type"], events[-1]["error"]["code"]) == ("server_error", "internal_error")
    assert "secret" not in json.dumps(events)


def test_a_client_that_leaves_frees_the_engine(start, wait, new_engine) -> None:
    with start(lambda: new_engine) as client:
        wait(lambda: ready(client))
        new_engine.hold.set()
        with client.stream("POST", "/v1/generate", json={"input": "x", "stream": True}) as response:
            lines = response.iter_lines()  # held: the response ends with it
            next(lines)
            assert not new_engine.cancelled.is_set()
        wait(new_engine.cancelled.is_set)
        new_engine.hold.clear()
        assert client.post("/v1/generate", json={"input": "x"}).status_code == 200


def test_a_slow_reader_loses_no_commits(start, wait, new_engine) -> None:
    new_engine.num_guesses = 20_000
    with start(lambda: new_engine) as client:
        wait(lambda: ready(client))
        new_engine.hold.set()
        body = json.dumps({"input": "x", "stream": True, "preview": {"every_steps": 1, "confidence": True}}).encode()
        request = b"POST /v1/generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect((client.base_url.host, client.base_url.port))
            reader.sendall(request + b"content-length: %d\r\n\r\n%s" % (len(body), body))
            wait(lambda: len(new_engine.together) > 400)  # far more than the socket's buffers take
            new_engine.hold.clear()
            received = b""
            while piece := reader.recv(65536):
                received += piece
    events = [json.loads(line[6:]) for line in received.split(b"\n") if line.startswith(b'data: {"type"')]
    commits = of_type(events, "tokens.commit")
    assert [at for commit in commits for at in commit["positions"]] == list(range(new_engine.together.count(1)))
    assert len(commits) < len(new_engine.together) / 2
    assert events[-1]["type"] == "generation.completed"
