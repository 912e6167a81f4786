"""The examples of docs/guide.md and docs/editing.md run, each language by itself, on the built-in model."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from unmask_engine.engine import Engine

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "docs" / "guide.md", ROOT / "docs" / "editing.md")
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
OLDEST_NODE = 20


def examples(language: str) -> list[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    found = [textwrap.dedent(body) for _, named, body in FENCE.findall(text) if named == language]
    assert len(found) > 8
    return found


@pytest.fixture(scope="module")
def url(start, wait) -> Iterator[str]:
    engine = Engine.load("unmask-mini")
    with start(lambda: engine) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        yield str(client.base_url).rstrip("/")


def test_in_the_shell(url: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    script = "set -eux\n" + "".join(examples("sh"))
    script = script.replace("http://127.0.0.1:8000", url).replace("curl -s", "curl --fail-with-body -sS")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # whose python3 has Pillow
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for picture in ("scene.png", "drawn.png", "quick.png", "repainted.png"):
        assert made[picture].startswith(b"\x89PNG")
    for sound in ("speech.wav", "respoken.wav"):
        assert made[sound].startswith(b"RIFF")
    assert made["events.txt"].rstrip().endswith(b"data: [DONE]")
    assert b'"audio"' in made["answer.json"]


@pytest.mark.slow  # a dozen answers of the model
def test_in_python(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    source = "\n".join(examples("python")).replace("http://127.0.0.1:8000", url)
    exec(compile(source, "docs", "exec"), names)
    names["client"].close()  # type: ignore[attr-defined]
    files = {file.name for file in tmp_path.iterdir()}
    assert {"scene.png", "speech.wav", "drawn.png", "answer.wav", "quick.png", "repainted.png", "respoken.wav"} <= files
    assert {"step-8.png", "both.png"} <= files


@pytest.mark.slow  # a dozen answers of the model
def test_in_javascript(url: str, tmp_path: Path) -> None:
    node = shutil.which("node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout if node else "v0"
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"that takes Node {OLDEST_NODE} or newer")
    source = "\n".join(examples("js")).replace("http://127.0.0.1:8000", url)
    source = source.replace('"unmask-client"', f'"{ROOT / "clients" / "js" / "src" / "index.js"}"')
    (tmp_path / "guide.mjs").write_text(source, encoding="utf-8")
    done = subprocess.run(
        [str(node), "guide.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = {file.name for file in tmp_path.iterdir()}
    assert {"scene.png", "speech.wav", "drawn.png", "answer.wav", "quick.png"} <= files
