"""The examples of README.md, docs/api.md and the JavaScript client run as they stand, on the built-in model."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from unmask_engine.engine import Engine

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
REFERENCE = ROOT / "docs" / "api.md"
JAVASCRIPT = ROOT / "clients" / "js" / "README.md"
CLIENT = ROOT / "clients" / "js" / "src" / "index.js"
# What a page has around the examples of the JavaScript client.
PAGE = """
import { openAsBlob } from "node:fs";
const [img, progress, microphone] = [{}, {}, {}];
const [play, stopPlaying] = [() => {}, () => {}];
const mask = await openAsBlob("mask.png", { type: "image/png" });
"""


def examples(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def address(start, wait) -> Iterator[str]:
    engine = Engine.load("unmask-mini")
    with start(lambda: engine) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        yield f"127.0.0.1:{client.base_url.port}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the files that the reference's examples are given."""
    Image.new("RGB", (128, 128), "yellow").save(tmp_path / "in.png")
    mask = Image.new("RGBA", (128, 128), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 64, 128))
    mask.save(tmp_path / "mask.png")
    return tmp_path


def run(command: Sequence[str | Path], folder: Path) -> str:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def in_the_shell(blocks: Sequence[str], address: str, folder: Path) -> str:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    script = "set -eu\n" + "".join(blocks).replace("localhost:8000", address)
    return run(["sh", "-c", re.sub(r"^curl ", "curl --fail-with-body ", script, flags=re.MULTILINE)], folder)


def starts(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()[:4]


def test_the_readmes_curl(address: str, folder: Path) -> None:
    (block,) = [block for block in examples(README, "sh") if "curl" in block]
    said = in_the_shell([block], address, folder)
    assert said.rstrip().endswith("data: [DONE]")
    assert (starts(folder, "scene.png"), starts(folder, "speech.wav")) == (b"\x89PNG", b"RIFF")


def test_the_readmes_python(address: str, folder: Path) -> None:
    (block,) = examples(README, "python")
    assert run([sys.executable, "-c", block.replace("127.0.0.1:8000", address)], folder).strip()


@pytest.mark.slow  # loads the model for each line
def test_the_readmes_command_line(folder: Path) -> None:
    (block,) = [block for block in examples(README, "sh") if "unmask generate" in block]
    first, rest = block.split("\n", 1)
    assert first.startswith(". .venv/bin/activate")
    run(["sh", "-c", f"set -eu\n{rest}"], folder)
    assert (starts(folder, "scene.png"), starts(folder, "drawn.png")) == (b"\x89PNG", b"\x89PNG")
    assert (starts(folder, "speech.wav"), starts(folder, "answer.wav")) == (b"RIFF", b"RIFF")


def test_the_references_curl(address: str, folder: Path) -> None:
    blocks = examples(REFERENCE, "sh")
    assert len(blocks) == 2
    assert '"type":"audio.done"' in in_the_shell(blocks, address, folder)
    with Image.open(folder / "out.png") as picture:
        assert picture.convert("RGB").getpixel((100, 60)) == (255, 255, 0)


def test_the_references_python(address: str, folder: Path) -> None:
    pytest.importorskip("openai", reason="no official client: pip install openai")
    blocks = examples(REFERENCE, "python")
    assert len(blocks) == 3
    run([sys.executable, "-c", "".join(blocks).replace("localhost:8000", address)], folder)
    assert starts(folder, "said.wav") == b"RIFF"


def test_the_javascript_clients(address: str, folder: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node")
    blocks = examples(JAVASCRIPT, "js")
    whole = [block for block in blocks if "client.realtime" not in block]  # for which Node 20 has no WebSocket
    assert len(whole) == len(blocks) - 1
    source = PAGE + "".join(whole).replace("127.0.0.1:8000", address).replace('"unmask-client"', f'"{CLIENT}"')
    (folder / "readme.mjs").write_text(source, encoding="utf-8")
    run([node, "readme.mjs"], folder)
