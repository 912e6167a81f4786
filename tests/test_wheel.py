"""What `pip install` gets: all packages, their type markers, the bundles, and the playground."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_BYTES = 45_000_000  # the built-in bundle may take 40 MB


@pytest.mark.slow
def test_the_wheel_holds_packages_and_bundles(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("unmask-*.whl")
    assert wheel.stat().st_size < MAX_BYTES
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for package in ("unmask_server", "unmask_engine", "unmask_kernels", "unmask_training"):
        assert f"{package}/py.typed" in names
        assert f"{package}/__init__.py" in names
    bundles = ROOT / "engine" / "unmask_engine" / "bundles"
    shipped = {f"unmask_engine/bundles/{file.relative_to(bundles)}" for file in bundles.rglob("*") if file.is_file()}
    for source, place in (("web", "web"), ("js/src", "js")):
        folder = ROOT / "clients" / source
        shipped |= {f"unmask_server/static/{place}/{file.name}" for file in folder.iterdir()}
    assert shipped <= names
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)
