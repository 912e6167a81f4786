"""The benchmark of dialogues: each row against its own targets, and gaps that a listener would hear counted."""

import asyncio
import importlib
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("bench_realtime")


def test_each_row_is_judged_by_its_own_targets(bench: ModuleType) -> None:
    def row(dialogues: int, **measured: float) -> dict[str, Any]:
        return {"dialogues": dialogues, "first_ms_p50": 600, "real_time_factor_p50": 0.7, "underruns": 0, **measured}

    def missed(row: dict[str, Any]) -> list[str]:
        return [verdict.split(": ")[0] for verdict in bench.verdicts(row) if "MISSED" in verdict]

    assert len(bench.verdicts(row(1))) == 2
    assert not missed(row(1, underruns=3))
    assert missed(row(1, first_ms_p50=701)) == ["1 at a time, first_ms_p50"]
    assert missed(row(1, real_time_factor_p50=0.81)) == ["1 at a time, real_time_factor_p50"]
    assert not missed(row(4, first_ms_p50=1400, real_time_factor_p50=1.6))
    assert missed(row(4, underruns=1)) == ["4 at a time, underruns"]
    assert bench.verdicts(row(8)) == []


@pytest.mark.parametrize(("step_s", "underruns"), [(0.0, 0), (0.3, 1)])
def test_an_answer_with_gaps_is_counted(bench: ModuleType, server, make, step_s: float, underruns: int) -> None:
    """Each step makes 0.1 s of sound, and the second kind takes three times as long."""
    plain = make.engine.step

    def step() -> Any:
        time.sleep(step_s)
        return plain()

    make.engine.step = step
    for _ in range(5):  # whatever else this machine does may make a gap where there is none
        row = asyncio.run(bench.measure(server.url, {}, [make.voice(0.5)], 1))
        if row["underruns"] == underruns:
            break
    assert (row["dialogues"], row["turns"], row["without_speech"]) == (1, 1, 0)
    assert row["underruns"] == underruns
    assert (row["gap_ms_max"] > 1000) is bool(underruns)
