"""Requests a second of the server itself, around an engine that costs nothing: a table, then one JSON line.

    python benchmarks/bench_overhead.py

The server runs in a process of its own, behind a real socket; this process asks over keep-alive connections with a
client that does no more than look at each answer, since both share the cores. Small requests: a text in, a text out.
"""

import asyncio
import json
import multiprocessing
import re
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from unmask_engine.request import Generation, GenerationRequest, Progress, Timings, Usage
from unmask_engine.work import Work
from unmask_server.app import create_app
from unmask_server.http_server import Server
from unmask_server.load_engine import spare_collector
from unmask_server.settings import Settings

RESULTS = Path(__file__).with_name("results") / "overhead_cpu.json"
SECONDS = 4.0
CONNECTIONS = (1, 8, 64)
TARGET = 1500.0  # requests a second, the best of CONNECTIONS
ANSWER = "red"
LENGTH = re.compile(rb"content-length: (\d+)")
BODY = b'{"input": "what color is the star", "output": ["text"]}'
REQUEST = (
    b"POST /v1/generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    + f"content-length: {len(BODY)}\r\n\r\n".encode()
    + BODY
)


@dataclass(eq=False)
class Running:
    request: GenerationRequest
    error: Exception | None = None


@dataclass
class InstantEngine:
    """Answers everything that it has in one step."""

    name: str = "instant"
    bundle: Any = field(default_factory=lambda: SimpleNamespace(presets=()))
    _running: list[Running] = field(default_factory=list)
    _steps: int = 0

    @property
    def work(self) -> Work:
        return Work(self._steps, self._steps, len(self._running))

    def prepare(self, request: GenerationRequest, waited_ms: float = 0.0) -> GenerationRequest:
        return request

    def submit(
        self,
        prepared: GenerationRequest,
        on_progress: Callable[[Progress], None] | None = None,
        interactive: bool = False,
    ) -> Running:
        self._running.append(Running(prepared))
        return self._running[-1]

    def probe(self) -> None:
        """Never lost."""

    def cancel(self, running: Running) -> None:
        self._running.remove(running)

    def step(self) -> Sequence[Running]:
        self._steps += 1
        left, self._running = self._running, []
        return left

    def answer(self, running: Running) -> Generation:
        return Generation(
            task="chat",
            token_ids=(1, 2, 3),
            confidence=(-0.1, -0.2, -0.3),
            text=ANSWER,
            audio=None,
            image=None,
            truncated=False,
            usage=Usage({"text": 5}, {"text": 1}, steps=1, forward_passes=1),
            timings=Timings(0.0, 0.0, 0.0),
        )


def serve(listener: socket.socket) -> None:
    settings = Settings(max_queue=1024, max_batch=256)

    def load() -> Any:
        spare_collector()  # as load_engine does
        return InstantEngine()

    Server(create_app(load, settings), settings).run(sockets=[listener])


class Asker(asyncio.Protocol):
    """One request after the other on one connection; every answer is looked at. `done` is set after the last."""

    def __init__(self, until: float, latencies: list[float]) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._until = until
        self._latencies = latencies
        self._began = 0.0
        self._seen = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, end, body = self._seen.partition(b"\r\n\r\n")
        if not end or len(body) < int(LENGTH.search(head)[1]):  # type: ignore[index]  # a head without it is an error
            return
        if not head.startswith(b"HTTP/1.1 200 ") or json.loads(body)["output"][0]["text"] != ANSWER:
            self.done.set_exception(RuntimeError(f"a wrong answer: {self._seen!r}"))
            return
        now = time.perf_counter()
        self._latencies.append(now - self._began)
        if now < self._until:
            self._ask()
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or RuntimeError("the server closed the connection"))

    def _ask(self) -> None:
        self._seen, self._began = b"", time.perf_counter()
        self._transport.write(REQUEST)


async def measure(port: int, connections: int, seconds: float) -> dict[str, float]:
    latencies: list[float] = []
    loop, began = asyncio.get_running_loop(), time.perf_counter()
    made = [
        await loop.create_connection(lambda: Asker(began + seconds, latencies), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(asker.done for _, asker in made))
    took = time.perf_counter() - began
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "connections": connections,
        "requests_per_s": round(len(latencies) / took, 1),
        "p50_ms": round(1e3 * cuts[49], 2),
        "p99_ms": round(1e3 * cuts[98], 2),
    }


def wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            if b" 200 " in connection.recv(4096)[:16]:
                return
        time.sleep(0.05)
    raise SystemExit("the server was not ready within 30 s")


def main() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        port = listener.getsockname()[1]
        server = multiprocessing.get_context("fork").Process(target=serve, args=(listener,))
        server.start()
    try:
        wait_until_ready(port)
        uvloop.run(measure(port, 8, 0.5))  # warms up
        rows = [uvloop.run(measure(port, connections, SECONDS)) for connections in CONNECTIONS]
    finally:
        server.terminate()
        server.join()
    table = Table("connections", "requests/s", "p50 ms", "p99 ms", title="an engine that costs nothing")
    for row in rows:
        table.add_row(*(f"{value:g}" for value in row.values()))
    Console().print(table)
    best = max(row["requests_per_s"] for row in rows)
    line = json.dumps({"best_requests_per_s": best, "target": TARGET, "met": best >= TARGET, "rows": rows})
    RESULTS.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
