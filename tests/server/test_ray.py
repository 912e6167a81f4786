"""Engines on a real local Ray cluster: they share the work, one may die, and they come and go with the load."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from unmask_engine.engine import Engine
from unmask_engine.request import Generation, GenerationRequest, Progress, TextPart, Timings, Tokens, Usage
from unmask_engine.work import Work
from unmask_server.settings import Settings

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
# Ray leaves sockets and files open in the process that drives it.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PORT = 18441  # outside the range from which Ray gives its workers theirs
URL = f"http://127.0.0.1:{PORT}"
STEPS, STEP_S = 5, 0.2
LONG_STEPS = 30  # of what begins with "long"
PATIENCE_S = 300.0


class PacedEngine:
    """Steps of the same length for every request; all that run share each of them."""

    name = "paced"
    bundle = SimpleNamespace(presets=())

    def __init__(self) -> None:
        self._running: list[SimpleNamespace] = []

    @property
    def work(self) -> Work:
        return Work(0, 0, len(self._running))

    def prepare(self, request: GenerationRequest, waited_ms: float = 0.0) -> GenerationRequest:
        if TextPart("die") in request.parts:
            os._exit(1)
        return request

    def submit(
        self,
        prepared: GenerationRequest,
        on_progress: Callable[[Progress], None] | None = None,
        interactive: bool = False,
    ) -> SimpleNamespace:
        self._running.append(
            SimpleNamespace(request=prepared, on_progress=on_progress, left=num_steps(prepared), error=None)
        )
        return self._running[-1]

    def probe(self) -> None:
        """Never lost."""

    def cancel(self, running: SimpleNamespace) -> None:
        self._running.remove(running)

    def step(self) -> Sequence[SimpleNamespace]:
        time.sleep(STEP_S)
        for running in self._running:
            running.left -= 1
            if running.on_progress is not None:
                nothing = Tokens((), (), ())
                steps = num_steps(running.request)
                done = steps - running.left
                running.on_progress(Progress(done, steps, done, steps, nothing, nothing, "so ", (), ()))
        left = [r for r in self._running if not r.left]
        self._running = [r for r in self._running if r.left]
        return left

    def answer(self, running: SimpleNamespace) -> Generation:
        (part,) = running.request.parts
        usage = Usage({"text": 1}, {"text": 1}, steps=STEPS, forward_passes=STEPS)
        timings = Timings(0.0, 0.0, 0.0)
        return Generation("paced", (1,), (0.0,), part.text, None, None, False, usage, timings)


def num_steps(request: GenerationRequest) -> int:
    (part,) = request.parts
    assert isinstance(part, TextPart)
    return LONG_STEPS if part.text.startswith("long") else STEPS


def paced(settings: Settings) -> Any:
    return PacedEngine()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    own = (
        {} if "RAY_ADDRESS" in os.environ else {"num_cpus": 2, "include_dashboard": False}
    )  # as many as there are engines
    ray.init(log_to_driver=False, **own)
    from ray import serve

    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    yield
    serve.shutdown()
    ray.shutdown()


def deploy(settings: Settings, load: Any = paced, **scaling: float) -> None:
    from unmask_server.ray_app import application

    serve_alone(application(settings, load, scaling or {}))


def serve_alone(application: Any) -> None:
    """Where there was none: engines of one that is replaced would answer some of the requests, and count."""
    from ray import serve

    serve.delete("unmask")
    serve.run(application, name="unmask", route_prefix="/")
    wait_until(lambda: httpx.get(f"{URL}/ready").status_code == 200)


def num_engines() -> int:
    from ray import serve

    states = serve.status().applications["unmask"].deployments["engine"].replica_states
    return int(states.get("RUNNING", 0))


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def body(text: str, **more: Any) -> dict[str, Any]:
    return {"input": [{"type": "text", "text": text}], "output": ["text"], **more}


async def ask(client: httpx.AsyncClient, text: str, **more: Any) -> httpx.Response:
    return await client.post("/v1/generate", json=body(text, **more))


def together(texts: Sequence[str], **more: Any) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=URL, timeout=PATIENCE_S) as client:
            return list(await asyncio.gather(*(ask(client, text, **more) for text in texts)))

    return asyncio.run(run())


def timed(texts: Sequence[str]) -> float:
    """Seconds to the last answer, the best of three times."""

    def once() -> float:
        began = time.monotonic()
        for answer in together(texts):
            answer.raise_for_status()
        return time.monotonic() - began

    return min(once() for _ in range(3))


def test_two_engines_answer_twice_as_many(cluster: None) -> None:
    texts = [f"request {i}" for i in range(8)]
    deploy(Settings(max_batch=2))
    alone = timed(texts)
    deploy(Settings(max_batch=2, min_engines=2, max_engines=2))
    wait_until(lambda: num_engines() == 2)
    assert timed(texts) < 0.7 * alone
    answers = together(texts)
    assert [answer.json()["output"][0]["text"] for answer in answers] == texts
    assert all(len(answer.headers.get_list("x-request-id")) == 1 for answer in answers)


def test_the_answers_are_those_of_an_engine_alone(cluster: None, tiny_bundle: Path) -> None:
    from unmask_server.ray_app import build

    serve_alone(build({"model": str(tiny_bundle), "device": "cpu"}))
    asked = {"input": "a", "output": ["image"], "return": ["tokens"]}
    answer = httpx.post(f"{URL}/v1/generate", json=asked, timeout=PATIENCE_S)
    (alone,) = Engine.load(tiny_bundle).generate([GenerationRequest((TextPart("a"),), ("image",))])
    assert answer.json()["tokens"] == list(alone.token_ids)
    wrong = httpx.post(f"{URL}/v1/generate", json=asked | {"task": "t2x"}, timeout=PATIENCE_S)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "task")


def test_what_is_too_much_is_refused_before_the_first_byte(cluster: None) -> None:
    deploy(Settings(max_batch=1, max_queue=1))
    for more in ({}, {"stream": True}):
        answers = together([f"request {i}" for i in range(5)], **more)
        refused = [answer for answer in answers if answer.status_code != 200]
        assert 1 <= len(refused) <= 4
        for answer in refused:
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "overloaded"
            assert answer.headers["retry-after"]


def test_a_lost_engine_costs_no_request_its_answer_or_its_error(cluster: None) -> None:
    at_once = 4
    deploy(Settings(max_batch=at_once, min_engines=2, max_engines=2))
    wait_until(lambda: num_engines() == 2)
    begun: set[str] = set()

    async def follow(client: httpx.AsyncClient, text: str) -> tuple[int, str]:
        told = ""
        async with client.stream("POST", "/v1/generate", json=body(text, stream=True)) as response:
            async for line in response.aiter_lines():
                told += line
                if "text.delta" in line:
                    begun.add(text)
        return response.status_code, told

    async def run() -> tuple[list[httpx.Response], list[tuple[int, str]]]:
        async with httpx.AsyncClient(base_url=URL, timeout=PATIENCE_S) as client:
            streams = [asyncio.create_task(follow(client, f"long {i}")) for i in range(2 * at_once)]
            deadline = time.monotonic() + PATIENCE_S
            while len(begun) <= at_once and time.monotonic() < deadline:  # until some of both engines' have
                await asyncio.sleep(STEP_S / 4)
            whole = [asyncio.create_task(ask(client, f"request {i}")) for i in range(12)]
            kill_an_engine()
            return list(await asyncio.gather(*whole)), list(await asyncio.gather(*streams))

    whole, streams = asyncio.run(run())
    assert [answer.status_code for answer in whole] == [200] * len(whole)  # asked again of the other one
    assert [status for status, _ in streams] == [200] * len(streams)  # they had begun, or were sent to the other one
    lost = ["engine_lost" in told for _, told in streams]
    assert 1 <= sum(lost) <= at_once
    for (_, told), is_lost in zip(streams, lost, strict=True):
        assert is_lost != ('"status":"completed"' in told)
    wait_until(lambda: num_engines() == 2)
    # What ends an engine ends two of them at the most, and is told so.
    (answer,) = together(["die"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_lost")
    wait_until(lambda: together(["alive"])[0].status_code == 200)


def kill_an_engine() -> None:
    actors = ray.util.list_named_actors(all_namespaces=True)
    name = next(actor["name"] for actor in actors if "#engine#" in actor["name"])
    ray.kill(ray.get_actor(name, namespace="serve"))


def test_engines_come_and_go_with_the_load_and_lose_nothing(cluster: None) -> None:
    delays = {"upscale_delay_s": 1, "downscale_delay_s": 2, "metrics_interval_s": 0.5, "look_back_period_s": 1}
    deploy(Settings(max_batch=2, max_queue=100, min_engines=1, max_engines=2), **delays)
    assert num_engines() == 1
    most = 0

    async def run() -> list[httpx.Response]:
        nonlocal most
        async with httpx.AsyncClient(base_url=URL, timeout=PATIENCE_S) as client:
            asked = [asyncio.create_task(ask(client, f"request {i}")) for i in range(12)]
            deadline = time.monotonic() + PATIENCE_S
            while (most := max(most, await asyncio.to_thread(num_engines))) < 2 and time.monotonic() < deadline:
                asked += [asyncio.create_task(ask(client, "more")) for _ in range(2)]
                await asyncio.sleep(2 * STEP_S * STEPS)
            while await asyncio.to_thread(num_engines) > 1 and time.monotonic() < deadline:
                asked.append(asyncio.create_task(ask(client, "few")))
                await asyncio.sleep(2 * STEP_S * STEPS)
            return list(await asyncio.gather(*asked))

    answers = asyncio.run(run())
    assert most == 2
    assert num_engines() == 1
    assert [answer.status_code for answer in answers] == [200] * len(answers)


def test_a_dialogue_is_told_that_the_server_ends(cluster: None) -> None:
    from ray import serve

    deploy(Settings(shutdown_timeout=60.0))

    async def run() -> int | None:
        async with connect(f"ws://127.0.0.1:{PORT}/v1/realtime") as session:
            assert "session.created" in str(await session.recv())
            ending = asyncio.create_task(asyncio.to_thread(serve.delete, "unmask"))
            async for _ in session:
                pass
            await ending
            return session.close_code

    assert asyncio.run(run()) == 1001
