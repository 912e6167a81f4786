"""The benchmarks of kernels, body, engine and built-in model: what they count, their code where it runs anywhere."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from unmask_engine.engine import Engine
from unmask_engine.request import Decoding, GenerationRequest, TextPart
from unmask_engine.testing_fakes import fake_bundle

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def test_only_committed_tokens_are_compared(load: Callable[[str], ModuleType]) -> None:
    bench, engine = load("bench_engine"), Engine(fake_bundle())
    asked = GenerationRequest((TextPart("a"),), ("image",), "t2i", decoding=Decoding(steps=4))
    whole, again = bench.one_by_one(engine, [asked]), bench.one_by_one(engine, [asked])
    (answer,) = engine.generate([asked])
    num_given = answer.confidence.count(None)
    assert num_given == 4  # the frame of the picture
    assert bench.differing(whole, again) == (0, len(answer.token_ids) - num_given)
    place = next(i for i, score in enumerate(answer.confidence) if score is not None)
    again.tokens[0] = (*whole.tokens[0][:place], -1, *whole.tokens[0][place + 1 :])
    assert bench.differing(whole, again)[0] == 1
    again.tokens[0] = (*whole.tokens[0][:place], None, *whole.tokens[0][place + 1 :])  # left open by one of the two
    assert bench.differing(whole, again) == (1, len(answer.token_ids) - num_given)


# Holds 64 MiB, then gives them back, a line each; a mapping of its own, which no free block of a heap can stand in for.
HOLDER = """
import mmap
block = mmap.mmap(-1, 64 << 20)
for _ in range(64):
    block.write(bytes([1]) * (1 << 20))
print("held", flush=True)
input()
block.close()
print("given back", flush=True)
input()
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads and resets /proc")
def test_the_peak_of_memory_counts_from_its_reset(load: Callable[[str], ModuleType]) -> None:
    bench = load("bench_mini")
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with_block = bench.peak_mib(holder.pid)
        print(file=holder.stdin, flush=True)
        assert holder.stdout.readline() == "given back\n"
        assert bench.peak_mib(holder.pid) > with_block - 32  # the kernel's counts are a little rough
        bench.reset_peak(holder.pid)
        assert bench.peak_mib(holder.pid) < with_block - 32
        print(file=holder.stdin, flush=True)


def test_the_kernel_benchmark_runs_to_its_end_at_toy_shapes_and_writes_nothing() -> None:
    pytest.importorskip("triton")
    before = sorted((FOLDER / "results").iterdir())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, FOLDER / "bench_kernels.py", "--tiny", "--device", "cpu"],
        capture_output=True,
        text=True,
        env=environment | {"TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["is_tiny"]
    *samples, reveal = report["results"]
    assert [result["tokens_differing"] for result in samples] == [0, 0]
    assert reveal["rows_differing"] == 0
    assert all(result["triton_ms"] > 0 and result["reference_ms"] > 0 for result in report["results"])
    assert sorted((FOLDER / "results").iterdir()) == before


def test_the_benchmark_of_the_body_runs_to_its_end_at_toy_shapes_and_writes_nothing(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((FOLDER / "results").iterdir())
    monkeypatch.setattr(sys, "argv", ["bench_body.py", "--tiny", "--device", "cpu"])
    assert load("bench_body").main() == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["is_tiny"]
    assert len(report["parts"]) == 2 * 4  # batches, operations
    assert all(0 <= part["could_save"] <= part["share_of_step"] for part in report["parts"])
    assert all(part["ms"] > 0 for part in report["parts"])
    assert sorted((FOLDER / "results").iterdir()) == before


@pytest.mark.parametrize("arguments", [[], ["--device", "cpu"]])
def test_the_kernel_benchmark_says_what_it_needs(
    load: Callable[[str], ModuleType],
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if torch.cuda.is_available() and not arguments:
        pytest.skip("there is one")
    monkeypatch.setattr(sys, "argv", ["bench_kernels.py", *arguments])
    assert load("bench_kernels").main() == 2
    assert "CUDA device" in capsys.readouterr().err
