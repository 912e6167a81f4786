"""What the server costs over the bare engine: a table, then one JSON line.

    .venv/bin/python benchmarks/bench_serve.py

The same requests of the built-in model (text to image, synthesis, image questions; fixed seed) go to an engine in this
process and, over a real socket, to `unmask serve` in one of its own. One at a time, each both ways in turn: what the
server costs is the median of the differences. Then CLIENTS at a time, all requests one way and all the other way: what
it takes of the throughput. Reading and writing media is the server's work, so it counts.
"""

import base64
import http.client
import json
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from unmask_engine.engine import Engine
from unmask_engine.media import write_image
from unmask_engine.request import GenerationRequest, ImagePart, Modality, Part, TextPart
from unmask_server.commands.bench import started
from unmask_server.engine_protocol import GenerationEngine

RESULTS = Path(__file__).with_name("results") / "serve_cpu.json"
MODEL = "unmask-mini"
ALONE = 40  # requests of each task, one at a time
TOGETHER = 120  # of all tasks
CLIENTS = 8
ROUNDS = 5  # of the throughput; the medians count
TARGETS = {"overhead_ms": 3.0, "throughput_loss": 0.05}  # at most
CAPTIONS = ("a red circle", "a small blue star in the top left", "a green square left of a yellow heart")
SENTENCES = ("hello", "a purple cross", "what color is the star", "one two three four five")
QUESTIONS = ("what color is it", "how many shapes are there", "where is the circle")


@dataclass(frozen=True)
class Case:
    """A request as the engine takes it, and as it goes over the wire."""

    task: str
    request: GenerationRequest
    body: bytes


def mixed(pictures: Sequence[ImagePart], number: int, seed: int = 0) -> list[Case]:
    """So many requests of each task, one task after the other."""
    rng = random.Random(seed)
    cases = []
    for _ in range(number):
        cases.append(case("t2i", "image", TextPart(rng.choice(CAPTIONS))))
        cases.append(case("tts", "audio", TextPart(rng.choice(SENTENCES))))
        cases.append(case("vqa", "text", TextPart(rng.choice(QUESTIONS)), rng.choice(pictures)))
    return cases


def case(task: str, output: Modality, *parts: Part) -> Case:
    body = {"task": task, "output": [output], "input": [_wire(part) for part in parts]}
    return Case(task, GenerationRequest(parts, (output,), task), json.dumps(body).encode())


def _wire(part: Part) -> dict[str, str]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    assert isinstance(part, ImagePart)
    return {"type": "image", "data": base64.b64encode(write_image(part, "png")).decode()}


def alone(engine: GenerationEngine, url: str, cases: Sequence[Case]) -> list[dict[str, float]]:
    """Milliseconds of each case both ways; which of the two is first changes from one to the next."""
    rows = []
    with _connected(url) as ask:
        for index, one in enumerate(cases):
            ways = [("bare", partial(_bare, engine, [one], 1)), ("server", partial(ask, one))]
            rows.append({way: 1e3 * _seconds(work) for way, work in (ways if index % 2 else ways[::-1])})
    return rows


def together(engine: GenerationEngine, url: str, cases: Sequence[Case], clients: int) -> dict[str, float]:
    """Requests a second both ways."""
    bare_s = _seconds(lambda: _bare(engine, cases, clients))
    waiting = deque(cases)

    def keep_asking() -> None:
        with _connected(url) as ask:
            while True:
                try:
                    one = waiting.popleft()
                except IndexError:
                    return
                ask(one)

    def all_of_them() -> None:
        with ThreadPoolExecutor(clients) as pool:
            for job in [pool.submit(keep_asking) for _ in range(clients)]:
                job.result()

    return {"bare": len(cases) / bare_s, "server": len(cases) / _seconds(all_of_them)}


def _bare(engine: GenerationEngine, cases: Sequence[Case], clients: int) -> None:
    """As many as there are clients are decoded at a time, as the server does it."""
    waiting, running = deque(cases), 0
    while waiting or running:
        while waiting and running < clients:
            engine.submit(engine.prepare(waiting.popleft().request))
            running += 1
        for done in engine.step():
            if done.error is not None:
                raise done.error
            engine.answer(done)
            running -= 1


@contextmanager
def _connected(url: str) -> Iterator[Callable[[Case], None]]:
    """Asks over one connection, which is kept."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)

    def ask(one: Case) -> None:
        connection.request("POST", "/v1/generate", one.body, {"content-type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise SystemExit(f"the server answered with {answer.status}: {said[:500]!r}")

    try:
        yield ask
    finally:
        connection.close()


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compared(
    engine: GenerationEngine, url: str, cases: Sequence[Case], crowd: Sequence[Case], clients: int, rounds: int
) -> dict[str, Any]:
    """`cases` one at a time, `crowd` so many at a time."""
    alone(engine, url, cases[:3])  # warms up
    rows = alone(engine, url, cases)
    tasks = {}
    for task in dict.fromkeys(one.task for one in cases):
        own = [row for one, row in zip(cases, rows, strict=True) if one.task == task]
        tasks[task] = {f"{way}_ms": round(statistics.median(row[way] for row in own), 2) for way in ("bare", "server")}
        tasks[task]["overhead_ms"] = _overhead(own)
    measured = [together(engine, url, crowd, clients) for _ in range(rounds)]
    bare, server = (statistics.median(row[way] for row in measured) for way in ("bare", "server"))
    result = {"overhead_ms": _overhead(rows), "throughput_loss": round(1 - server / bare, 3)}
    return {
        **result,
        "targets": TARGETS,
        "met": all(result[name] <= most for name, most in TARGETS.items()),
        "tasks": tasks,
        "clients": clients,
        "bare_per_s": round(bare, 2),
        "server_per_s": round(server, 2),
    }


def _overhead(rows: Sequence[dict[str, float]]) -> float:
    return round(statistics.median(row["server"] - row["bare"] for row in rows), 2)


def show(result: dict[str, Any]) -> None:
    title = f"median overhead {result['overhead_ms']:g} ms, throughput loss {100 * result['throughput_loss']:.1f} %"
    table = Table("", "bare engine", "server", "difference", title=title)
    for task, row in result["tasks"].items():
        table.add_row(f"{task}, ms", *(f"{row[name]:.1f}" for name in ("bare_ms", "server_ms", "overhead_ms")))
    bare, server = result["bare_per_s"], result["server_per_s"]
    table.add_row(f"{result['clients']} at a time, requests/s", f"{bare:.2f}", f"{server:.2f}", f"{server - bare:.2f}")
    Console().print(table)
    print(json.dumps(result))


def main() -> None:
    engine: Any = Engine.load(MODEL)
    drawn = [made.image for made in engine.generate([GenerationRequest((TextPart(c),), ("image",)) for c in CAPTIONS])]
    pictures = [image for image in drawn if image is not None]
    with started() as url:
        result = compared(engine, url, mixed(pictures, ALONE), mixed(pictures, TOGETHER // 3, 1), CLIENTS, ROUNDS)
    RESULTS.write_text(json.dumps(result) + "\n")
    show(result)


if __name__ == "__main__":
    main()
