"""`unmask generate` draws a bar over its steps where somebody looks at it, and nowhere else."""

import io
import os
import select
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from unmask_engine.request import Generation, GenerationRequest, Timings, Usage
from unmask_server.cli import main

pty = pytest.importorskip("pty", reason="needs pseudo terminals")


class ThreeSteps:
    def generate(
        self, requests: Sequence[GenerationRequest], on_step: Callable[[int, int, int], None] | None = None
    ) -> list[Generation]:
        for step in range(1, 4):
            if on_step is not None:
                on_step(0, step, 3)
        usage, timings = Usage({"text": 1}, {"text": 1}, 3, 3), Timings(1.0, 2.0, 3.0)
        return [Generation("chat", (1,), (0.0,), "hello", None, None, False, usage, timings)]


@pytest.fixture(autouse=True)
def command(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = SimpleNamespace(load=lambda path, device: ThreeSteps())
    monkeypatch.setitem(sys.modules, "unmask_engine.engine", SimpleNamespace(Engine=loader))
    monkeypatch.setattr(sys, "argv", ["unmask", "generate", "hi", "--model", "omni-diffusion", "--device", "cpu"])


def run() -> int:
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def read_until(reader: int, end: str) -> str:
    """What a terminal was sent, which it may get a moment later."""
    seen = ""
    while end not in seen and select.select([reader], [], [], 60)[0]:
        seen += os.read(reader, 1 << 16).decode(errors="replace")
    return seen


def test_a_terminal_sees_the_steps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TERM", "xterm")
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)  # here, since pytest sets its own between a fixture and its test
        assert run() == 0
        seen = read_until(reader, "3/3")
    os.close(reader)
    assert "unmasking" in seen
    assert "3/3" in seen
    assert capsys.readouterr().out == "hello\n"


def test_a_pipe_sees_nothing_but_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert capsys.readouterr() == ("hello\n", "")


def test_a_file_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    assert run() == 0
    assert errors.getvalue() == ""
