"""The examples of docs/realtime.md run."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
OLDEST_NODE = 20
# What the page has besides: a voice that asks once the session listens, and a player that counts.
PAGE = """
let heard = 0;
const microphone = {};
const player = { isPlaying: false, playedS: 0, stop() {}, add(samples, rate) {
  heard += samples.length / rate;
  if (heard > 0.9) { console.log(`${heard} s of an answer`); process.exit(0); }
} };
const talk = setInterval(() => {
  if (!microphone.onframe) return;
  clearInterval(talk);
  const tone = Float32Array.from({ length: 24_000 }, (_, i) => 0.3 * Math.sin(i / 10));
  for (const piece of [tone, new Float32Array(24_000)]) microphone.onframe(piece);
}, 20);
"""


def example(language: str) -> str:
    text = (ROOT / "docs" / "realtime.md").read_text(encoding="utf-8")
    (found,) = (body for named, body in FENCE.findall(text) if named == language)
    return found


def test_in_python(server, make) -> None:
    with server.dial():
        source = example("python").replace("http://localhost:8000", server.url)
        assert server.url in source
        played: list[str] = []
        question = base64.b64encode(make.voice(1.0).astype("<i2").tobytes()).decode()
        names: dict[str, object] = {"question": question, "play": played.append}
        exec(compile(source, "docs/realtime.md", "exec"), names)
        names["client"].close()  # type: ignore[attr-defined]
    assert sum(len(base64.b64decode(piece)) for piece in played) == pytest.approx(48_000, abs=4)


def test_in_javascript(server, tmp_path: Path) -> None:
    node = shutil.which("node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout if node else "v0"
    major = int(version.removeprefix("v").partition(".")[0])
    if major < OLDEST_NODE:
        pytest.skip(f"that takes Node {OLDEST_NODE} or newer")
    with server.dial():
        source = example("js").replace("http://127.0.0.1:8000", server.url)
        assert server.url in source
        client = ROOT / "clients" / "js" / "src" / "index.js"
        script = tmp_path / "guide.mjs"
        script.write_text(f'import {{ UnmaskClient }} from "{client}";\n{PAGE}{source}', encoding="utf-8")
        flags = ["--experimental-websocket"] if major < 22 else []
        done = subprocess.run(
            [str(node), *flags, str(script)], capture_output=True, text=True, timeout=240, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "s of an answer" in done.stdout


def test_the_extra_field(dial) -> None:
    wanted = json.loads(example("json"))
    with dial() as client:
        assert client.set(x_unmask=wanted["session"]["x_unmask"])["x_unmask"] == wanted["session"]["x_unmask"]
