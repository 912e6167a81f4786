"""`unmask serve --ray` as a user starts it, with a small package in Ray's place that notes what it is asked for."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

# The calls of Ray that the command makes; each is noted as a line. A request is in flight until `serve.delete`.
RAY = """
import json, os, sys

def note(name, /, *args, **kwargs):
    with open(os.environ["NOTES"], "a") as file:
        file.write(json.dumps([name, args, kwargs], default=lambda x: type(x).__name__) + "\\n")

def init(**kwargs):
    note("init", os.environ.get("RAY_USAGE_STATS_ENABLED"), **kwargs)

def shutdown():
    note("shutdown")
"""
SERVE = """
import os, signal, time
from ray import note

def start(**kwargs):
    note("start", **kwargs)

def run(app, **kwargs):
    note("run", app, **kwargs)
    if os.environ.get("FAILS"):
        raise RuntimeError("no engine came up")
    if os.environ.get("STOPPED_EARLY"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)  # for a place on the cluster, as long as there is none

def delete(name):
    note("delete", name)
"""
APPLICATION = """
from types import ModuleType
import sys
module = ModuleType("unmask_server.ray_app")
module.application = lambda settings: ["the application of", settings.model]
sys.modules["unmask_server.ray_app"] = module
from unmask_server.cli import main
sys.argv[0] = "unmask"
main()
"""


class Served:
    """The command in a process of its own, and what Ray was asked for."""

    def __init__(self, folder: Path, flags: Sequence[str], ray: str = RAY, **environment: str) -> None:
        (folder / "ray").mkdir()
        (folder / "ray" / "__init__.py").write_text(ray)
        (folder / "ray" / "serve.py").write_text(SERVE)
        self.file = folder / "notes.jsonl"
        paths = os.pathsep.join([str(folder), *filter(None, sys.path)])
        variables = {**os.environ, "PYTHONPATH": paths, "NOTES": str(self.file), "OMP_NUM_THREADS": "1", **environment}
        command = [sys.executable, "-c", APPLICATION, "serve", "--ray", "--model", "unmask-mini", *flags]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=variables)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err

    def calls(self) -> list[tuple[str, list[Any], dict[str, Any]]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Served]]:
    all_of_them: list[Served] = []
    yield all_of_them
    for served in all_of_them:
        served.process.kill()
        served.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop(tmp_path: Path, started: list[Served], number: signal.Signals) -> None:
    served = Served(tmp_path, ["--port", "18555", "--host", "127.0.0.2", "--log-level", "warning"])
    started.append(served)
    assert served.line() == "Unmask serves unmask-mini at http://127.0.0.2:18555 (API: /docs)\n"
    assert [name for name, *_ in served.calls()] == ["init", "start", "run"]
    served.process.send_signal(number)
    code, _, err = served.end()
    assert code == 0, err
    init, start, run, delete, shutdown = served.calls()
    # Ray tells nobody, and a cluster of one machine needs no dashboard.
    assert init == ["init", ["0"], {"log_to_driver": True, "logging_level": 30, "include_dashboard": False}]
    assert start == ["start", [], {"http_options": {"host": "127.0.0.2", "port": 18555}}]
    assert run == ["run", [["the application of", "unmask-mini"]], {"name": "unmask", "route_prefix": "/"}]
    assert delete == ["delete", ["unmask"], {}]  # which waits for what runs
    assert shutdown[0] == "shutdown"


def test_port_0_is_a_free_port_that_it_says(tmp_path: Path, started: list[Served]) -> None:
    served = Served(tmp_path, ["--port", "0"])
    started.append(served)
    found = re.fullmatch(r"Unmask serves unmask-mini at http://127\.0\.0\.1:(\d+) \(API: /docs\)\n", served.line())
    assert found
    (options,) = [kwargs for name, _, kwargs in served.calls() if name == "start"]
    assert options["http_options"]["port"] == int(found[1]) > 0


def test_a_stop_while_it_starts_is_not_lost(tmp_path: Path, started: list[Served]) -> None:
    served = Served(tmp_path, [], STOPPED_EARLY="1")
    started.append(served)
    code, out, err = served.end()
    assert (code, out) == (0, ""), err
    assert [name for name, *_ in served.calls()][-2:] == ["delete", "shutdown"]


def test_what_failed_to_start_is_taken_away(tmp_path: Path, started: list[Served]) -> None:
    served = Served(tmp_path, [], FAILS="1")
    started.append(served)
    code, out, err = served.end()
    assert code != 0
    assert out == ""
    assert "no engine came up" in err
    assert [name for name, *_ in served.calls()][-2:] == ["delete", "shutdown"]


def test_without_ray_it_says_what_to_install(tmp_path: Path, started: list[Served]) -> None:
    served = Served(tmp_path, [], ray="raise ImportError('no ray here')")
    started.append(served)
    code, _, err = served.end()
    assert code == 1
    assert "pip install 'unmask[ray]'" in err
