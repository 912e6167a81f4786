"""The device that a benchmark runs on: its name, its clock, what it reaches at best, and where its results go."""

import argparse
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

REPEATS = 10
UNCACHED = 256 << 20  # bytes; what is read again after as many others comes from memory, not from a cache


@dataclass(frozen=True)
class Rates:
    """What the device reaches on the largest plain work of its kind."""

    flops: float  # a second, of one large matrix product
    bytes: float  # a second, read and written, of one large copy


def chosen_device(about: str) -> tuple[torch.device, bool] | None:
    """The script's `--device` and whether it is `--tiny`; None, said on stderr, where only toy shapes could run."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy shapes, to test the benchmark itself")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"{parser.prog} needs a CUDA device, and there is none; try --tiny --device cpu.", file=sys.stderr)
        return None
    if device.type != "cuda" and not chosen.tiny:
        print(f"{parser.prog} measures CUDA devices; on {device.type} there is only --tiny.", file=sys.stderr)
        return None
    return device, chosen.tiny


def seconds(call: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Of one call among many behind each other; the first one warms up."""
    call()
    synchronise(device)
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronise(device)
    return (time.perf_counter() - began) / repeats


def device_seconds(calls: Sequence[Callable[[], object]], device: torch.device) -> float:
    """Of one call on the device alone, without its launch: the calls behind each other as one CUDA graph.

    They should read UNCACHED bytes between them. Without CUDA it is the time of the first one.
    """
    if device.type != "cuda":
        return seconds(calls[0], device, repeats=1)
    for call in calls:
        call()
    torch.cuda.synchronize(device)
    rounds = -(-REPEATS // len(calls))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls * rounds:
            call()
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(REPEATS):
        began.record()
        graph.replay()
        ended.record()
        torch.cuda.synchronize(device)
        times.append(1e-3 * began.elapsed_time(ended))
    return statistics.median(times) / (len(calls) * rounds)


def num_uncached(size: int) -> int:
    """How many different tensors of that many bytes are UNCACHED, when one is read after the other; at most 64."""
    return min(64, 1 + UNCACHED // size)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured_rates(device: torch.device, dtype: torch.dtype, size: int, copied: int) -> Rates:
    """A product of two (size, size) matrices, and a copy of `copied` bytes."""
    matrix = torch.randn(size, size, device=device).to(dtype)
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Rates(
        flops=2 * size**3 / seconds(lambda: matrix @ matrix, device),
        bytes=2 * copied / seconds(lambda: target.copy_(source), device),
    )


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def result_file(bench: str, name: str) -> Path:
    """Where the results of a benchmark on the device of that name are kept."""
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return Path(__file__).parent / "results" / f"{bench}_{slug}.json"
