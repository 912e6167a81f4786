"""What is written in JavaScript, by Node's own runner, where Node is at hand."""

import shutil
import subprocess
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "clients" / "js"
PLAYGROUND = Path(__file__).parent / "playground"
OLDEST_NODE = 20


def test_the_types_are_those_of_the_client() -> None:
    tsc = shutil.which("tsc") or shutil.which("tsc", path=str(CLIENT / "node_modules" / ".bin"))
    if tsc is None:
        pytest.skip("no types are checked: that takes `npm install` in clients/js")
    done = subprocess.run([tsc, "-p", CLIENT], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("folder", [CLIENT, PLAYGROUND], ids=["client", "playground"])
def test_with_nodes_own_runner(folder: Path) -> None:
    node = shutil.which("node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout if node else "v0"
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"no JavaScript is tested: that takes Node {OLDEST_NODE} or newer")
    done = subprocess.run([node, "--test"], cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout[-4000:]
