"""`unmask bench serve` against a real socket: every request is counted, in its task or by why it failed."""

import importlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from unmask_engine.request import ImagePart
from unmask_server.cli import app
from unmask_server.commands.exits import CommandError
from unmask_server.settings import Settings

Start = Callable[..., AbstractContextManager[httpx.Client]]


def bench(client: httpx.Client, *options: str) -> Result:
    url = str(client.base_url).rstrip("/")
    return CliRunner().invoke(app, ["bench", "serve", "--url", url, *options], env={"COLUMNS": "200"})


def last(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.output.splitlines()[-1])


def test_a_closed_loop_counts_all_tasks(client: httpx.Client, engine) -> None:
    told = last(bench(client, "--clients", "3", "--seconds", "0.5", "--task", "t2i", "--task", "vqa"))
    assert told["loop"] == "closed, 3 clients"
    assert set(told["tasks"]) == {"t2i", "vqa"}
    made = 3  # the pictures to ask about
    assert told["answered"] == sum(row["count"] for row in told["tasks"].values()) == len(engine.requests) - made
    assert told["failed"] == {}
    for row in told["tasks"].values():
        assert 0 < row["first"]["p50"] <= row["total"]["p99"]


def test_an_open_loop_asks_by_the_clock(client: httpx.Client, engine) -> None:
    told = last(bench(client, "--rate", "40", "--seconds", "0.5", "--task", "t2i"))
    assert told["loop"] == "open, 40/s"
    assert 5 <= told["answered"] <= 60  # 20 on average; drawn by a seed


def test_refusals_are_counted(start: Start, engine) -> None:
    with start(lambda: engine, settings=Settings(api_keys=("right",))) as client:
        result = bench(client, "--seconds", "0.5", "--task", "t2i")
        assert isinstance(result.exception, CommandError)
        assert json.loads(result.output.splitlines()[-1])["failed"]["401"] > 0
        assert last(bench(client, "--api-key", "right", "--seconds", "0.5", "--task", "t2i"))["failed"] == {}


def test_what_cannot_be_measured_is_said(client: httpx.Client) -> None:
    for options, message in (
        (("--task", "dance"), "unknown task"),
        ((), "none of the tasks"),  # the fake names no tasks
        (("--url", "http://127.0.0.1:1", "--task", "t2i"), "ConnectError"),
    ):
        with pytest.raises(CommandError, match=message):
            raise bench(client, "--seconds", "0.1", *options).exception


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("bench_serve")


def test_the_server_is_compared_with_its_engine(
    client: httpx.Client, engine, new_engine, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both get the same requests; two steps of the fake engine take 2 ms and more."""
    cases = script.mixed([ImagePart(np.full((8, 8, 3), 9, np.uint8))], 2)
    assert [case.task for case in cases] == ["t2i", "tts", "vqa"] * 2
    engine.prepare = new_engine.prepare = lambda request, waited_ms=0.0: request  # the fake knows few tasks
    engine.requests.clear()
    told = script.compared(new_engine, str(client.base_url), cases, cases, clients=3, rounds=2)
    script.show(told)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == told
    assert len(engine.requests) == len(new_engine.requests) == 3 + 6 + 2 * 6
    assert set(map(repr, engine.requests)) == set(map(repr, new_engine.requests))
    assert max(new_engine.together) == 3
    assert set(told["tasks"]) == {"t2i", "tts", "vqa"}
    assert all(row["bare_ms"] >= 2 for row in told["tasks"].values())
    assert told["throughput_loss"] == pytest.approx(1 - told["server_per_s"] / told["bare_per_s"], abs=0.01)
    assert told["met"] == (told["overhead_ms"] <= 3 and told["throughput_loss"] <= 0.05)


def test_the_overhead_is_what_the_server_adds_to_most_requests(script: ModuleType) -> None:
    rows = [{"bare": bare, "server": bare + added} for bare, added in ((2.0, 1.0), (9.0, 1.5), (3.0, 80.0))]
    assert script._overhead(rows) == 1.5
