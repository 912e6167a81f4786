"""The queue between the event loop and the engine thread."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from unmask_server.middleware import RequestIds
from unmask_server.settings import Settings


def ask(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/generate", json={"input": "x"})


def ready(client: httpx.Client) -> bool:
    return client.get("/ready").status_code == 200


def test_ready_only_after_the_load(start, wait, new_engine) -> None:
    loaded = threading.Event()

    def load():
        assert loaded.wait(10)
        return new_engine

    with start(load) as client:
        assert client.get("/health").status_code == 200
        for response in (client.get("/ready"), client.get("/v1/models"), ask(client)):
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "not_ready"
            assert response.headers["retry-after"] == "1"
        loaded.set()
        wait(lambda: ready(client))
        assert ask(client).status_code == 200


def test_a_failed_load_is_said_and_leaks_nothing(start, wait) -> None:
    def load():
        raise RuntimeError("secret path")

    with start(load) as client:
        wait(lambda: "log" in client.get("/ready").json()["error"]["message"])
        assert ask(client).status_code == 503
        assert "secret" not in ask(client).text


def test_requests_join_the_running_ones_up_to_a_limit(start, wait, new_engine) -> None:
    with start(lambda: new_engine, Settings(max_batch=3)) as client, ThreadPoolExecutor() as pool:
        wait(lambda: ready(client))
        new_engine.hold.set()
        first = pool.submit(ask, client)
        wait(lambda: new_engine.together[-1:] == [1])
        others = [pool.submit(ask, client) for _ in range(4)]
        wait(lambda: new_engine.together[-1:] == [3])
        new_engine.hold.clear()
        assert [job.result().status_code for job in (first, *others)] == [200] * 5
        assert max(new_engine.together) == 3


@pytest.mark.parametrize("crash", ["crash", "crash in the codec"])
def test_a_crash_fails_its_request_alone(start, wait, new_engine, crash) -> None:
    with start(lambda: new_engine) as client, ThreadPoolExecutor() as pool:
        wait(lambda: ready(client))
        new_engine.hold.set()
        good = pool.submit(ask, client)
        wait(lambda: new_engine.together[-1:] == [1])
        bad = pool.submit(client.post, "/v1/generate", json={"input": crash})
        wait(lambda: len(new_engine.requests) == 2)
        new_engine.hold.clear()
        assert bad.result().status_code == 500
        assert "secret" not in bad.result().text
        assert good.result().status_code == 200


def test_the_server_outlives_a_step_that_fails(start, wait, new_engine) -> None:
    with start(lambda: new_engine) as client:
        wait(lambda: ready(client))
        assert client.post("/v1/generate", json={"input": "crash everything"}).status_code == 500
        assert ask(client).status_code == 200


def test_a_mistake_fails_alone(start, wait, new_engine) -> None:
    with start(lambda: new_engine) as client, ThreadPoolExecutor() as pool:
        wait(lambda: ready(client))
        bad = {"input": "x", "decoding": {"steps": -1}}
        jobs = [pool.submit(ask, client) for _ in range(3)]
        wrong = pool.submit(client.post, "/v1/generate", json=bad)
        assert [job.result().status_code for job in jobs] == [200] * 3
        assert wrong.result().status_code == 400


def test_a_full_queue_refuses(start, wait, new_engine) -> None:
    with start(lambda: new_engine, Settings(max_queue=0)) as client:
        wait(lambda: ready(client))
        response = ask(client)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
        assert response.headers["retry-after"] == "1"


def test_a_client_that_leaves_frees_the_engine(start, wait, new_engine) -> None:
    with start(lambda: new_engine) as client:
        wait(lambda: ready(client))
        new_engine.hold.set()
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/generate", json={"input": "x"}, timeout=0.3)
        wait(new_engine.cancelled.is_set)
        new_engine.hold.clear()
        assert ask(client).status_code == 200


def test_a_client_that_leaves_frees_its_place_in_the_queue(start, wait, new_engine) -> None:
    with start(lambda: new_engine, Settings(max_batch=1)) as client, ThreadPoolExecutor() as pool:
        wait(lambda: ready(client))
        new_engine.hold.set()
        first = pool.submit(ask, client)
        wait(lambda: new_engine.together[-1:] == [1])
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/generate", json={"input": "gone"}, timeout=0.3)
        time.sleep(0.2)  # the server notices
        new_engine.hold.clear()
        assert first.result().status_code == 200
        assert ask(client).status_code == 200
        assert [part.text for request in new_engine.requests for part in request.parts] == ["x", "x"]


def test_stopping_answers_what_runs(start, wait, new_engine) -> None:
    with ThreadPoolExecutor() as pool:
        with start(lambda: new_engine) as client:
            wait(lambda: ready(client))
            url = str(client.base_url) + "/v1/generate"
            new_engine.hold.set()
            running = pool.submit(httpx.post, url, json={"input": "x"})
            wait(lambda: new_engine.together[-1:] == [1])
            threading.Timer(0.3, new_engine.hold.clear).start()
        assert running.result().status_code == 200


def test_what_the_stop_cuts_short_is_told_so() -> None:
    sent: list[Message] = []

    async def cut_short(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(RequestIds(cut_short)({"type": "http", "headers": []}, receive, send))
    assert sent[0]["status"] == 503
    assert b"shutting down" in sent[1]["body"]
