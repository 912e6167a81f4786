"""The JavaScript client's own tests, where Node is at hand."""

import shutil
import subprocess
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "clients" / "js"
OLDEST_NODE = 20


def test_with_nodes_own_runner() -> None:
    node = shutil.which("node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout if node else "v0"
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"the JavaScript client is not tested: that takes Node {OLDEST_NODE} or newer")
    done = subprocess.run([node, "--test"], cwd=CLIENT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout[-4000:]
