"""The command line answers at once, because it imports nothing heavy before it must."""

import os
import resource
import subprocess
import sys

import pytest

HEAVY = ("torch", "fastapi", "numpy", "uvicorn", "tokenizers", "safetensors", "PIL", "soundfile", "huggingface_hub")
MAX_SECONDS = 0.3  # measured: 0.16 on free cores
BUSY = 2  # times as long on cores whose caches others use: measured 0.39
SLOW = 5  # times what typer and rich take, on slower cores: measured 1.9
TRIES = 5

RUN = """
import sys
from unmask_server.cli import main
sys.argv = ["unmask", {argument!r}]
try:
    main()
finally:
    heavy = [name for name in {heavy!r} if name in sys.modules]
    sys.exit("imported: " + ", ".join(heavy) if heavy else 0)
"""


@pytest.mark.parametrize("argument", ["--help", "version"])
def test_nothing_heavy_is_imported(argument: str) -> None:
    script = RUN.format(argument=argument, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=_environment())
    assert done.returncode == 0, done.stderr
    assert "unmask" in done.stdout or "." in done.stdout


def test_help_is_instant() -> None:
    """By the time of the processor, which is that of the clock where nothing else runs; the best of a few runs."""
    ours = "import sys; sys.argv = ['unmask', '--help']; from unmask_server.cli import main; main()"
    told, needed = [], []
    for _ in range(TRIES):
        told.append(_seconds(ours))
        needed.append(_seconds("import typer, rich.console"))
    assert min(told) < max(MAX_SECONDS * BUSY, SLOW * min(needed))


def _seconds(script: str) -> float:
    """Of the processor, for a new Python to run it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, env=_environment())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
