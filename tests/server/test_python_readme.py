"""The examples of the Python client's README run, in their order, on the built-in model."""

import re
from pathlib import Path

import pytest

from unmask_engine.engine import Engine

README = Path(__file__).parents[2] / "clients" / "python" / "README.md"


@pytest.fixture
def url(start, wait):
    engine = Engine.load("unmask-mini")
    with start(lambda: engine) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        yield str(client.base_url)


def test_examples(url: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 6
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block.replace("http://127.0.0.1:8000", url), str(README), "exec"), names)
    names["client"].close()
    assert {"scene.png", "speech.wav", "whole.wav", "preview-4.png", "reply.wav"} <= {
        f.name for f in tmp_path.iterdir()
    }
