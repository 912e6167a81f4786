"""A load on a server, closed or open, and the times that its answers took.

Closed loop: so many clients, each asks again when it has its answer; the throughput is the result. Open loop: requests
arrive at random times, so many a second on average, however slow the server is; the latency is the result.
"""

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import numpy as np

from unmask_server.bench.workload import Body, Workload

PERCENTILES: Final = (50, 90, 99)
OUTPUT: Final = (".delta", ".done", ".preview")  # ends of the names of events that bring something of the answer


@dataclass
class Outcome:
    first_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by task
    total_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failed: Counter[str] = field(default_factory=Counter)  # by status or code

    def as_json(self, seconds: float) -> dict[str, Any]:
        answered = sum(map(len, self.total_s.values()))
        return {
            "seconds": round(seconds, 2),
            "answered": answered,
            "answered_per_s": round(answered / seconds, 2),
            "failed": dict(self.failed),
            "tasks": {
                task: {"count": len(total), "first": _percentiles(self.first_s[task]), "total": _percentiles(total)}
                for task, total in sorted(self.total_s.items())
            },
        }


async def closed_loop(client: httpx.AsyncClient, load: Workload, clients: int, seconds: float) -> Outcome:
    outcome, requests = Outcome(), load.requests()
    until = time.perf_counter() + seconds

    async def keep_asking() -> None:
        while time.perf_counter() < until:
            await ask(client, *next(requests), outcome)

    await asyncio.gather(*(keep_asking() for _ in range(clients)))
    return outcome


async def open_loop(client: httpx.AsyncClient, load: Workload, rate: float, seconds: float) -> Outcome:
    """`rate` is requests a second; their gaps are exponential."""
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


async def ask(client: httpx.AsyncClient, task: str, body: Body, outcome: Outcome) -> None:
    """One streamed request; a refusal or a failure is counted by its name."""
    began, first, code = time.perf_counter(), 0.0, "incomplete_stream"
    try:
        async with client.stream("POST", "/v1/generate", json=body | {"stream": True}) as response:
            if response.status_code != 200:
                outcome.failed[str(response.status_code)] += 1
                return
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    code = event["error"]["code"]
                elif event["type"] == "generation.completed":
                    code = ""
                elif not first and event["type"].endswith(OUTPUT):
                    first = time.perf_counter() - began
    except httpx.TransportError as error:
        code = type(error).__name__
    if code:
        outcome.failed[code] += 1
        return
    total = time.perf_counter() - began
    outcome.first_s[task].append(first or total)
    outcome.total_s[task].append(total)


def _percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(seconds, p)), 4) for p in PERCENTILES}
