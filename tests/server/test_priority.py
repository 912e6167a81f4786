"""A dialogue's request goes before batch requests, from the WebSocket down to the steps of the real scheduler."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from websockets.sync.client import connect

from unmask_engine.engine import Engine, Running
from unmask_engine.omni_presets import OMNI_PRESETS
from unmask_engine.preset import CanvasRule, Message, Preset
from unmask_engine.scheduler import Policy
from unmask_engine.testing_fakes import fake_bundle

CHAT = Preset("chat", ("text",), ("text",), (Message("user", "{text}"),), CanvasRule(tokens=48))
# By the work that is left they would all go first.
SHORT = {"input": "hi", "output": ["text"], "decoding": {"steps": 3, "max_tokens": 6}}
NUM_BATCH = 4


class Watched(Engine):
    """Takes requests in, but no step before `go`; notes who takes part in each."""

    def __init__(self) -> None:
        super().__init__(fake_bundle(presets=(*OMNI_PRESETS, CHAT)), Policy(knee=0))
        self.go = threading.Event()
        self.submitted: list[Running] = []
        self.steps: list[list[bool]] = []  # of each request in it, whether it is interactive

    def submit(self, *args: Any, **options: Any) -> Running:
        self.submitted.append(super().submit(*args, **options))
        return self.submitted[-1]

    def step(self) -> list[Running]:
        if not self.go.is_set():
            time.sleep(0.001)
            return []
        before = [running.state.begun for running in self.submitted]
        left = super().step()
        ran = [running for running, begun in zip(self.submitted, before, strict=True) if running.state.begun > begun]
        self.steps.append([running.job.interactive for running in ran])
        return left


def test_a_dialogue_takes_every_step_until_it_is_answered(start, wait) -> None:
    engine = Watched()
    with start(lambda: engine) as client, ThreadPoolExecutor() as pool:
        wait(lambda: client.get("/ready").status_code == 200)
        batch = [pool.submit(client.post, "/v1/generate", json=SHORT) for _ in range(NUM_BATCH)]
        wait(lambda: len(engine.submitted) == NUM_BATCH)
        url = f"ws://127.0.0.1:{client.base_url.port}/v1/realtime?model=any"
        with connect(url) as socket:
            socket.send(
                json.dumps(event("session.update", session={"type": "realtime", "output_modalities": ["text"]}))
            )
            content = [{"type": "input_text", "text": "hello"}]
            item = {"type": "message", "role": "user", "content": content}
            socket.send(json.dumps(event("conversation.item.create", item=item)))
            socket.send(json.dumps(event("response.create")))
            wait(lambda: len(engine.submitted) == NUM_BATCH + 1)
            engine.go.set()
            while (seen := json.loads(socket.recv(60)))["type"] != "response.done":
                assert seen["type"] != "error", seen
            assert seen["response"]["status"] in ("completed", "incomplete")
        assert [answer.result().status_code for answer in batch] == [200] * NUM_BATCH
    assert [running.job.interactive for running in engine.submitted] == [False] * NUM_BATCH + [True]
    talk = engine.submitted[-1].state.begun
    assert talk > 3 * NUM_BATCH  # the longest of all
    assert engine.steps[:talk] == [[True]] * talk
    assert all(not any(ran) for ran in engine.steps[talk:])
    assert sum(map(len, engine.steps[talk:])) == sum(r.state.begun for r in engine.submitted[:-1])


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}
