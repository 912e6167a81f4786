"""What continuous batching is worth on this machine: a table, then one JSON line.

    python benchmarks/bench_engine.py

A mixed load (text to image, recognition, synthesis, image questions; fixed seed) on the built-in model, asked by 1, 4
and 16 clients at random moments, against the same requests one by one. Then a short request that arrives behind long
ones. Counts the committed tokens that differ from those of the same request alone; there should be none. Given tokens
and what an early end leaves open do not count.
"""

import json
import random
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from unmask_engine.engine import Engine, Running
from unmask_engine.request import Decoding, Generation, GenerationRequest, ImagePart, Modality, Part, TextPart

Committed = tuple[int | None, ...]  # a canvas; None where a token was given or nothing was committed

REQUESTS = 160  # commit some 4500 tokens
THINKING_S = 0.05  # mean pause of a client between two requests
CLIENTS = (1, 4, 16)
REPEATS = 7
TARGETS = {
    "throughput_ratio_16": (1.5, "at least"),
    "short_behind_long_ratio": (2.0, "at most"),
    "compared_tokens": (10_000, "at least"),
    "differing_tokens": (0, "at most"),
}
CAPTIONS = ("a red circle", "a small blue star in the top left", "a green square left of a yellow heart")
SENTENCES = ("hello", "a purple cross", "what color is the star", "one two three four five")
QUESTIONS = ("what color is it", "how many shapes are there", "where is the circle", "describe the picture")


def mixed_load(engine: Engine, seed: int = 0) -> list[GenerationRequest]:
    """The requests in the order in which they are asked; pictures and speech in are made by the model itself."""
    rng = random.Random(seed)
    spoken = [engine.generate([request("tts", "audio", TextPart(s))])[0].audio for s in SENTENCES]
    drawn = [engine.generate([request("t2i", "image", TextPart(c))])[0].image for c in CAPTIONS]
    made = []
    for i in range(REQUESTS):
        task = ("t2i", "asr", "tts", "vqa")[i % 4]
        if task == "t2i":
            made.append(request(task, "image", TextPart(rng.choice(CAPTIONS))))
        elif task == "tts":
            made.append(request(task, "audio", TextPart(rng.choice(SENTENCES))))
        elif task == "asr":
            audio = rng.choice(spoken)
            assert audio is not None
            made.append(request(task, "text", audio))
        else:
            picture = rng.choice(drawn)
            assert picture is not None
            noise = np.random.default_rng(i).integers(-4, 5, picture.pixels.shape)
            pixels = np.clip(picture.pixels + noise, 0, 255).astype(np.uint8)
            made.append(request(task, "text", TextPart(rng.choice(QUESTIONS)), ImagePart(pixels)))
    rng.shuffle(made)
    return made


def request(task: str, output: Modality, *parts: Part) -> GenerationRequest:
    return GenerationRequest(parts, (output,), task)


def committed(answer: Generation) -> Committed:
    pairs = zip(answer.token_ids, answer.confidence, strict=True)
    return tuple(None if confidence is None else token for token, confidence in pairs)


@dataclass
class Outcome:
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    tokens: dict[int, Committed] = field(default_factory=dict)  # of each request

    @property
    def throughput(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, p: float) -> float:
        return float(np.percentile(self.latencies, p))


def one_by_one(engine: Engine, requests: list[GenerationRequest]) -> Outcome:
    outcome = Outcome()
    for i, asked in enumerate(requests):
        began = time.perf_counter()
        (answer,) = engine.generate([asked])
        outcome.latencies.append(time.perf_counter() - began)
        outcome.tokens[i] = committed(answer)
    outcome.seconds = sum(outcome.latencies)
    return outcome


def by_clients(engine: Engine, requests: list[GenerationRequest], clients: int, seed: int = 1) -> Outcome:
    """Each client asks, waits for the answer, thinks for a random while and asks the next one."""
    outcome, rng = Outcome(), random.Random(seed)
    coming = list(enumerate(requests))[::-1]
    free = [rng.expovariate(1 / THINKING_S) for _ in range(clients)]  # when each client asks next
    running: dict[int, tuple[int, float, Running]] = {}
    began = time.perf_counter()
    while coming or running:
        now = time.perf_counter() - began
        for client in [c for c, moment in enumerate(free) if moment <= now and c not in running]:
            if coming:
                index, asked = coming.pop()
                running[client] = (index, now, engine.submit(engine.prepare(asked)))
        if not running:
            time.sleep(max(0.0, min(free) - now))
        for left in engine.step():
            client, (index, asked_at, _) = next((c, r) for c, r in running.items() if r[2] is left)
            del running[client]
            outcome.tokens[index] = committed(engine.answer(left))
            done = time.perf_counter() - began
            outcome.latencies.append(done - asked_at)
            free[client] = done + rng.expovariate(1 / THINKING_S)
    outcome.seconds = time.perf_counter() - began
    return outcome


def short_behind_long(engine: Engine) -> float:
    """Latency of a short request among eight long ones that have begun, over its latency alone; the median."""
    short = request("vqa", "text", TextPart("what color is it"), ImagePart(np.full((128, 128, 3), 200, np.uint8)))
    long = request("t2i", "image", TextPart("a red circle"))
    long = replace(long, decoding=Decoding(steps=64))
    ratios = []
    for _ in range(REPEATS):
        (alone,) = one_by_one(engine, [short]).latencies
        others = [engine.submit(engine.prepare(long)) for _ in range(8)]
        for _ in range(3):
            engine.step()
        began = time.perf_counter()
        running = engine.submit(engine.prepare(short))
        while not any(left is running for left in engine.step()):
            pass
        engine.answer(running)
        ratios.append((time.perf_counter() - began) / alone)
        for other in others:
            engine.cancel(other)
    return statistics.median(ratios)


def differing(a: Outcome, b: Outcome) -> tuple[int, int]:
    """Tokens that differ, and tokens compared: those committed in either."""
    pairs = [pair for i in a.tokens for pair in zip(a.tokens[i], b.tokens[i], strict=True) if pair != (None, None)]
    return sum(x != y for x, y in pairs), len(pairs)


def main() -> int:
    engine = Engine.load("unmask-mini")
    requests = mixed_load(engine)
    one_by_one(engine, requests[:8])  # warm
    alone = one_by_one(engine, requests)
    console, table = Console(), Table(title="Mixed load on the built-in model")
    for name in ("clients", "requests/s over one by one", "p50 / one by one", "p95 / one by one", "tokens differing"):
        table.add_column(name, justify="right")
    line: dict[str, float] = {}
    wrong = compared = 0
    for clients in CLIENTS:
        outcome = by_clients(engine, requests, clients)
        ratio = outcome.throughput / alone.throughput
        line[f"throughput_ratio_{clients}"] = round(ratio, 3)
        for p in (50, 95):
            line[f"p{p}_ratio_{clients}"] = round(outcome.percentile(p) / alone.percentile(p), 3)
        bad, all_ = differing(alone, outcome)
        wrong, compared = wrong + bad, compared + all_
        table.add_row(
            str(clients),
            f"{ratio:.2f}",
            *(f"{line[f'p{p}_ratio_{clients}']:.2f}" for p in (50, 95)),
            f"{bad} of {all_}",
        )
    line |= {"differing_tokens": wrong, "compared_tokens": compared}
    line["short_behind_long_ratio"] = round(short_behind_long(engine), 3)
    console.print(table)
    for name, (target, how) in TARGETS.items():
        met = line[name] >= target if how == "at least" else line[name] <= target
        console.print(f"{name}: {line[name]:g} ({how} {target}: {'met' if met else 'MISSED'})")
    Path(__file__).with_name("results").joinpath("engine_cpu.json").write_text(json.dumps(line) + "\n")
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
