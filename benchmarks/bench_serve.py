"""A running server under a mixed load: latencies by task as a table, then one JSON line.

    .venv/bin/python benchmarks/bench_serve.py                         # starts `unmask serve` itself
    .venv/bin/python benchmarks/bench_serve.py --url http://host:8000 --clients 32 --seconds 60
    .venv/bin/python benchmarks/bench_serve.py --rate 5                # open loop

Closed loop: so many clients, each asks again when it has its answer; the throughput is the result. Open loop: requests
arrive at random times, so many a second on average, however slow the server is; the latency is the result. Every
request is streamed from /v1/generate. The pictures and the speech that go in are made by the server first.
"""

import argparse
import asyncio
import base64
import json
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

CAPTIONS = ("a red circle", "a small blue star in the top left", "a green square left of a yellow heart")
SENTENCES = ("hello", "a purple cross", "what color is the star", "one two three four five")
QUESTIONS = ("what color is it", "how many shapes are there", "where is the circle")
TASKS = ("t2i", "tts", "asr", "vqa")
PERCENTILES = (50, 90, 99)
TIMEOUT_S = 300.0

Body = dict[str, Any]


@dataclass
class Load:
    """Requests of all tasks in turn, their words drawn by a seed."""

    client: httpx.Client
    tasks: tuple[str, ...]
    seed: int
    pictures: list[str] = field(default_factory=list)
    recordings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if "vqa" in self.tasks:
            self.pictures = [self._made(caption, "image") for caption in CAPTIONS]
        if "asr" in self.tasks:
            self.recordings = [self._made(sentence, "audio") for sentence in SENTENCES]

    def requests(self) -> Iterator[tuple[str, Body]]:
        rng = random.Random(self.seed)
        while True:
            for task in rng.sample(self.tasks, len(self.tasks)):
                yield task, self._request(task, rng)

    def _request(self, task: str, rng: random.Random) -> Body:
        if task == "t2i":
            return {"task": task, "input": rng.choice(CAPTIONS), "output": ["image"]}
        if task == "tts":
            return {"task": task, "input": rng.choice(SENTENCES), "output": ["audio"]}
        if task == "asr":
            return {"task": task, "input": [{"type": "audio", "data": rng.choice(self.recordings)}]}
        question = {"type": "text", "text": rng.choice(QUESTIONS)}
        return {"task": task, "input": [question, {"type": "image", "data": rng.choice(self.pictures)}]}

    def _made(self, text: str, modality: str) -> str:
        body = {"input": text, "output": [modality]}
        answer = self.client.post("/v1/generate", json=body, headers={"accept": f"{modality}/*"})
        answer.raise_for_status()
        return base64.b64encode(answer.content).decode()


@dataclass
class Outcome:
    first_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by task
    total_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failed: Counter[str] = field(default_factory=Counter)


async def ask(client: httpx.AsyncClient, task: str, body: Body, outcome: Outcome) -> None:
    began, first = time.perf_counter(), 0.0
    try:
        async with client.stream("POST", "/v1/generate", json=body | {"stream": True}) as response:
            if response.status_code != 200:
                outcome.failed[str(response.status_code)] += 1
                return
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[len("data: ") :])
                if "error" in event:
                    outcome.failed[event["error"]["code"]] += 1
                    return
                if not first and event["type"].endswith((".delta", ".done", ".preview")):
                    first = time.perf_counter() - began
    except httpx.TransportError as error:
        outcome.failed[type(error).__name__] += 1
        return
    total = time.perf_counter() - began
    outcome.first_s[task].append(first or total)
    outcome.total_s[task].append(total)


async def closed_loop(client: httpx.AsyncClient, load: Load, clients: int, seconds: float) -> Outcome:
    outcome, requests = Outcome(), load.requests()
    until = time.perf_counter() + seconds

    async def keep_asking() -> None:
        while time.perf_counter() < until:
            await ask(client, *next(requests), outcome)

    await asyncio.gather(*(keep_asking() for _ in range(clients)))
    return outcome


async def open_loop(client: httpx.AsyncClient, load: Load, rate: float, seconds: float) -> Outcome:
    outcome, rng = Outcome(), random.Random(load.seed)
    now, until = time.perf_counter(), time.perf_counter() + seconds
    async with asyncio.TaskGroup() as running:
        for task, body in load.requests():
            now += rng.expovariate(rate)
            if now > until:
                break
            await asyncio.sleep(max(0.0, now - time.perf_counter()))
            running.create_task(ask(client, task, body, outcome))
    return outcome


@contextmanager
def started() -> Iterator[str]:
    """`unmask serve` on a free port, as long as the context lasts."""
    unmask = Path(sys.executable).with_name("unmask")
    with subprocess.Popen([unmask, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline().split()
            if not line:
                raise SystemExit("the server did not start; run `unmask serve` to see why")
            yield line[4]
        finally:
            server.terminate()


def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    with httpx.Client(base_url=url, timeout=TIMEOUT_S, headers=headers) as client:
        load = Load(client, tuple(options.tasks), options.seed)
    limits = httpx.Limits(max_connections=None)

    async def run() -> Outcome:
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, headers=headers, limits=limits) as client:
            if options.rate:
                return await open_loop(client, load, options.rate, options.seconds)
            return await closed_loop(client, load, options.clients, options.seconds)

    began = time.perf_counter()
    outcome = asyncio.run(run())
    seconds = time.perf_counter() - began
    answered = sum(map(len, outcome.total_s.values()))
    return {
        "loop": f"open, {options.rate:g}/s" if options.rate else f"closed, {options.clients} clients",
        "seconds": round(seconds, 2),
        "answered": answered,
        "answered_per_s": round(answered / seconds, 2),
        "failed": dict(outcome.failed),
        "tasks": {
            task: {"count": len(total), "first": percentiles(outcome.first_s[task]), "total": percentiles(total)}
            for task, total in sorted(outcome.total_s.items())
        },
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(seconds, p)), 4) for p in PERCENTILES}


def show(result: dict[str, Any]) -> None:
    title = f"{result['loop']}: {result['answered_per_s']:g} answers/s, failed: {result['failed'] or 'none'}"
    heads = [f"{what} p{p}" for what in ("first", "total") for p in PERCENTILES]
    table = Table("task", "answers", *heads, title=title, caption="seconds to the first output and to the end")
    for task, row in result["tasks"].items():
        table.add_row(task, str(row["count"]), *(f"{v:.3f}" for v in (*row["first"].values(), *row["total"].values())))
    Console().print(table)
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a running server; without it one is started")
    parser.add_argument("--api-key", default="")
    parser.add_argument("--clients", type=int, default=8, help="of the closed loop")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; makes it an open loop")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.url:
        show(measure(options.url, options))
    else:
        with started() as url:
            show(measure(url, options))


if __name__ == "__main__":
    main()
