"""The queue between the event loop and the engine thread."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
from starlette.types import Message, Receive, Scope, Send

from unmask_engine.request import AudioPart, GenerationRequest, ImagePart, RequestError, TextPart
from unmask_server.bridge import EngineThread
from unmask_server.engine_client import Admitted, Event, Finished, Preview, Wants
from unmask_server.errors import ServerError
from unmask_server.metrics import Metrics
from unmask_server.middleware import RequestIds
from unmask_server.settings import Settings


def ask(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/generate", json={"input": "x"})


def ready(client: httpx.Client) -> bool:
    return client.get("/ready").status_code == 200


def request(text: str) -> GenerationRequest:
    return GenerationRequest((TextPart(text),), ("text",))


def slowed(engine) -> tuple[threading.Event, threading.Event]:
    """Makes the engine tell that it is in a step, and wait there until it may go on."""
    in_step, next_step = threading.Event(), threading.Event()
    step = engine.step

    def slow_step():
        in_step.set()
        assert next_step.wait(60)
        return step()

    engine.step = slow_step
    return in_step, next_step


@contextmanager
def running(
    engine, settings: Settings | None = None, on_crash: Callable[[], None] = lambda: None
) -> Iterator[EngineThread]:
    """The bridge without a server."""
    bridge = EngineThread(lambda: engine, settings or Settings(), Metrics("0"), on_crash)
    bridge.start()
    try:
        while not bridge.is_ready:
            time.sleep(0.005)
        yield bridge
    finally:
        engine.hold.clear()
        bridge.stop()


def test_ready_only_after_the_load(start, wait, new_engine) -> None:
    loaded = threading.Event()

    def load():
        assert loaded.wait(60)
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


def test_without_a_queue_there_is_work_while_there_is_room(start, wait, new_engine) -> None:
    with start(lambda: new_engine, Settings(max_queue=0, max_batch=2)) as client, ThreadPoolExecutor() as pool:
        wait(lambda: ready(client))
        assert ask(client).status_code == 200
        new_engine.hold.set()
        running = [pool.submit(ask, client) for _ in range(2)]
        wait(lambda: new_engine.together[-1:] == [2])
        response = ask(client)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
        assert response.headers["retry-after"] == "1"
        new_engine.hold.clear()
        assert [job.result().status_code for job in running] == [200] * 2
        assert ask(client).status_code == 200


def test_what_comes_at_once_is_taken_as_far_as_there_is_room(start, wait, new_engine) -> None:
    """Between two steps nothing joins: room in the batch counts, not only the queue."""
    in_step, next_step = slowed(new_engine)
    with start(lambda: new_engine, Settings(max_queue=1, max_batch=4)) as client, ThreadPoolExecutor() as pool:
        wait(lambda: ready(client))
        asked = [pool.submit(ask, client)]
        assert in_step.wait(60)
        asked += [pool.submit(ask, client) for _ in range(4)]
        wait(lambda: client.get("/load").json()["waiting"] == 4)  # three that join and one that waits
        assert ask(client).status_code == 503
        next_step.set()
        assert [job.result().status_code for job in asked] == [200] * 5
        assert max(new_engine.together) == 4


def test_who_leaves_the_queue_is_not_counted_any_more(wait, new_engine) -> None:
    """At once, not after the step that is under way; and its place is free."""
    in_step, next_step = slowed(new_engine)

    async def come_and_go(bridge: EngineThread) -> None:
        first = asyncio.create_task(bridge.generate(request("first")))
        await asyncio.to_thread(wait, in_step.is_set)
        leaving = asyncio.create_task(bridge.generate(request("leaving")))
        await asyncio.sleep(0)
        assert bridge.num_waiting == 1
        leaving.cancel()
        await asyncio.wait({leaving})
        assert bridge.num_waiting == 0
        last = asyncio.create_task(bridge.generate(request("last")))
        await asyncio.sleep(0)
        next_step.set()
        await asyncio.gather(first, last)

    with running(new_engine, Settings(max_queue=1, max_batch=1)) as bridge:
        asyncio.run(come_and_go(bridge))
    assert [part.text for asked in new_engine.requests for part in asked.parts] == ["first", "last"]


def test_a_dialogue_waits_before_batch_requests(wait, new_engine) -> None:
    new_engine.hold.set()
    with running(new_engine, Settings(max_batch=1)) as bridge:

        async def ask_all() -> None:
            asked = []
            waiting = (("first", False), ("batch", False), ("spoken", True), ("spoken later", True))
            for num_waiting, (text, interactive) in enumerate(waiting):
                asked.append(asyncio.create_task(bridge.generate(request(text), interactive)))
                await asyncio.to_thread(wait, lambda n=num_waiting: (bridge.num_running, bridge.num_waiting) == (1, n))
            new_engine.hold.clear()
            await asyncio.gather(*asked)

        asyncio.run(ask_all())
    order = [part.text for asked in new_engine.requests for part in asked.parts]
    assert order == ["first", "spoken", "spoken later", "batch"]


def test_a_client_that_leaves_frees_the_engine(start, wait, new_engine, asking) -> None:
    with start(lambda: new_engine) as client:
        wait(lambda: ready(client))
        new_engine.hold.set()
        with asking(client, {"input": "x"}):
            wait(lambda: new_engine.together[-1:] == [1])
        wait(new_engine.cancelled.is_set)
        new_engine.hold.clear()
        assert ask(client).status_code == 200


def test_a_client_that_leaves_frees_its_place_in_the_queue(start, wait, new_engine, asking) -> None:
    with start(lambda: new_engine, Settings(max_batch=1)) as client, ThreadPoolExecutor() as pool:
        wait(lambda: ready(client))
        new_engine.hold.set()
        first = pool.submit(ask, client)
        wait(lambda: new_engine.together[-1:] == [1])
        with asking(client, {"input": "gone"}):
            wait(lambda: client.get("/load").json()["waiting"] == 1)
        wait(lambda: 'unmask:request_failure_total{reason="abort"} 1.0' in client.get("/metrics").text)
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
            running = pool.submit(httpx.post, url, json={"input": "x"}, timeout=60)
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


@pytest.mark.parametrize("where", ["prepare", "submit", "step", "each by itself"])
def test_a_lost_device_ends_the_engine(wait, new_engine, where) -> None:
    """The first failure after it does, wherever it shows, and nobody is left waiting."""

    def fail(*_: object) -> None:
        raise RuntimeError("device lost")

    def fail_each() -> list[object]:
        left, new_engine.running = new_engine.running, []
        for one in left:
            one.error = RuntimeError("device lost")
        return left

    setattr(
        new_engine, "step" if where == "each by itself" else where, fail_each if where == "each by itself" else fail
    )
    new_engine.is_lost = True
    crashed = threading.Event()
    with running(new_engine, Settings(max_batch=1), crashed.set) as bridge:

        async def ask_all() -> list[object]:
            asked = (bridge.generate(request("x")) for _ in range(3))
            return await asyncio.gather(*asked, return_exceptions=True)

        told = asyncio.run(ask_all())
        assert all(isinstance(error, RuntimeError | ServerError) for error in told)
        assert crashed.wait(60)
        assert not bridge.is_alive


def test_failures_on_a_sound_device_are_only_their_own(wait, new_engine) -> None:
    """However many: what crashes by itself must not end the work of others."""
    with running(new_engine) as bridge:
        for _ in range(5):
            with pytest.raises(RuntimeError):
                asyncio.run(bridge.generate(request("crash everything")))
        assert asyncio.run(bridge.generate(request("x"))).generation.task == "fake"
        assert bridge.is_alive


def test_mistakes_are_no_failures_of_the_engine(new_engine) -> None:
    with running(new_engine) as bridge:
        for _ in range(5):
            with pytest.raises(RequestError):
                asyncio.run(bridge.generate(replace(request("x"), task="dance")))
        assert bridge.is_alive


def test_nothing_is_said_to_who_has_left(wait, new_engine) -> None:
    """What waits for the media thread when its reader leaves is not made."""
    spoken: list[int] = []
    speaking, go_on = threading.Event(), threading.Event()

    def speak(_: object, codes: Sequence[int]) -> AudioPart:
        spoken.append(len(codes))
        speaking.set()
        assert go_on.wait(60)
        return AudioPart(np.zeros(100, np.float32), 22050)

    new_engine.speak = speak
    new_engine.hold.set()

    async def leave(bridge: EngineThread) -> None:
        async with aclosing(bridge.stream(request("x"), Wants(speech=True))) as events:
            await anext(events)
            await asyncio.to_thread(speaking.wait)
            wait(lambda: len(new_engine.together) > 3)  # the second piece waits

    with running(new_engine) as bridge:
        asyncio.run(leave(bridge))
        wait(new_engine.cancelled.is_set)
        go_on.set()
        new_engine.hold.clear()
        assert asyncio.run(bridge.generate(request("y"))).generation.task == "fake"
        assert spoken == [1]


def test_an_answer_does_not_wait_for_previews(wait, new_engine) -> None:
    """The one that is being drawn is all that an answer may come behind; later ones are dropped."""
    drawn: list[int] = []
    drawing, go_on = threading.Event(), threading.Event()

    def draw(codes: Sequence[int]) -> ImagePart:
        drawn.append(codes[0])
        drawing.set()
        assert go_on.wait(60)
        return ImagePart(np.zeros((2, 2, 3), np.uint8))

    new_engine.draw = draw
    new_engine.hold.set()

    async def follow(bridge: EngineThread, name: str) -> list[Event]:
        events = bridge.stream(replace(request(name), outputs=("image",)), Wants(preview_every=1))
        return [event async for event in events]

    async def both(bridge: EngineThread) -> list[list[Event]]:
        first = asyncio.create_task(follow(bridge, "first"))
        assert await asyncio.to_thread(drawing.wait, 60)
        second = asyncio.create_task(follow(bridge, "second"))
        await asyncio.to_thread(wait, lambda: new_engine.together[-3:] == [2, 2, 2])
        new_engine.hold.clear()
        await asyncio.to_thread(wait, lambda: not new_engine.running)
        go_on.set()
        return await asyncio.gather(first, second)

    with running(new_engine) as bridge:
        first, second = asyncio.run(both(bridge))
    assert [type(event) for event in first] == [Admitted, Preview, Finished]
    assert [type(event) for event in second] == [Admitted, Finished]
    assert len(drawn) == 1
