"""`deadline_ms` from the request to the answer: the wait for a place counts, and the answer says what it came to."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from unmask_engine.engine import Engine
from unmask_engine.pace import Pace
from unmask_engine.testing_fakes import ByteTokenizer, fake_bundle, script
from unmask_server.settings import Settings

STEP_S = 0.1  # as the engine believes; the fake's take no time
VOCABULARY = ByteTokenizer().vocabulary


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(Pace, "predict", lambda *_: STEP_S)
    return Engine(fake_bundle(script([VOCABULARY.special["pad"]] * 64, VOCABULARY.size)))


def steps(client: httpx.Client, **decoding: float) -> int:
    body = {"input": "hello", "output": ["audio"], "decoding": decoding}
    answer = client.post("/v1/generate", json=body)
    assert answer.status_code == 200
    return answer.json()["usage"]["steps"]


def test_a_deadline_makes_steps_fewer_and_the_answer_says_so(start, wait, slow: Engine) -> None:
    with start(lambda: slow) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        usual = steps(client)
        assert usual > 8
        assert steps(client, deadline_ms=1e308) == usual
        assert steps(client, deadline_ms=60_000) == usual
        assert 1 <= steps(client, deadline_ms=850) <= 8
        assert 1 <= steps(client, deadline_ms=350, block_size=1) <= 3
        assert steps(client, deadline_ms=0.001) == 1
        body = {"input": "hello", "voice": "alloy", "deadline_ms": 1}
        assert client.post("/v1/audio/speech", json=body).status_code == 200


def test_the_wait_for_a_place_is_a_part_of_it(start, wait, slow: Engine) -> None:
    step, go_on = slow.step, threading.Event()

    def held() -> list[object]:
        assert go_on.wait(60)
        return step()

    slow.step = held  # type: ignore[method-assign, assignment]
    with start(lambda: slow, Settings(max_batch=1)) as client, ThreadPoolExecutor() as pool:
        wait(lambda: client.get("/ready").status_code == 200)
        first = pool.submit(steps, client)
        wait(lambda: client.get("/load").json()["running"] == 1)
        second = pool.submit(steps, client, deadline_ms=850)
        wait(lambda: client.get("/load").json()["waiting"] == 1)
        time.sleep(0.5)
        go_on.set()
        assert second.result() <= 3
        assert first.result() > 8
