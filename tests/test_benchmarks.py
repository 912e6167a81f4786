"""The benchmark of the 7B shapes where there is no GPU: its arithmetic, the loop it compares with, its code path."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from unmask_engine.loop import decode
from unmask_engine.state import DecodingState

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("bench_7b")


# Tokens a sequence, sequences, mean of the masked positions of each -> milliseconds on an H200 (performance.md).
@pytest.mark.parametrize(
    ("length", "batch", "masked", "milliseconds"),
    [
        (128, 1, 27, 3.34),
        (128, 8, 27, 17.33),
        (320, 1, 130.5, 5.63),
        (320, 8, 130.5, 44.38),
        (600, 8, 130.5, 82.43),
        (1400, 1, 64.5, 24.42),
        (1400, 8, 64.5, 193.81),
    ],
)
def test_the_floor_of_the_published_model(
    bench: ModuleType, length: int, batch: int, masked: float, milliseconds: float
) -> None:
    rates = bench.Rates(flops=790e12, bytes=4.3e12)
    found = bench.floor_s(bench.published().config, [length] * batch, batch * masked, rates)
    assert 1e3 * found == pytest.approx(milliseconds, rel=2e-3)


@pytest.mark.parametrize("task", range(3))
def test_the_naive_loop_decodes_what_the_engine_decodes(bench: ModuleType, task: int) -> None:
    scale = bench.tiny()
    model = bench.random_model(scale, torch.device("cpu"))
    plan = bench.request(model, scale, scale.tasks[task], share_masked=1.0, seed=task)
    state = DecodingState(plan)
    decode([state], model)
    chosen = plan.settings
    naive = bench.NaiveSettings(
        chosen.top_p, chosen.top_k, chosen.repetition_penalty, chosen.position_penalty, chosen.guidance
    )
    decode_naively = importlib.import_module("naive_loop").naive_decode
    found = decode_naively(model, plan.prompt, plan.unconditional, plan.canvas, plan.mask, chosen.steps, naive)
    assert found.tolist() == state.ids.tolist()
    assert scale.mask not in found.tolist()


def test_it_runs_to_its_end_at_toy_shapes_and_writes_nothing(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((FOLDER / "results").iterdir())
    monkeypatch.setattr(sys, "argv", ["bench_7b.py", "--tiny", "--device", "cpu"])
    assert bench.main() == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["is_tiny"]
    assert [result["task"] for result in report["tasks"]] == ["t2i", "s2i", "tts"]
    assert all(result["step_ms"] > 0 and result["floor_ms"] > 0 for result in report["steps"])
    assert all(result["share_of_copy_rate"] > 0 for result in report["sampler"])
    assert report["tokens"] == {"differing": 0, "compared": 48}
    assert sorted((FOLDER / "results").iterdir()) == before


@pytest.mark.parametrize("arguments", [[], ["--device", "cpu"]])
def test_without_a_gpu_it_says_so(
    bench: ModuleType, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available() and not arguments:
        pytest.skip("there is one")
    monkeypatch.setattr(sys, "argv", ["bench_7b.py", *arguments])
    assert bench.main() == 2
    assert "CUDA device" in capsys.readouterr().err
