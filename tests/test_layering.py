"""Who may import whom, and how long a file may grow."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "kernels/unmask_kernels": set(),
    "engine/unmask_engine": {"unmask_kernels"},
    "server/unmask_server": {"unmask_engine"},
    "training/unmask_training": {"unmask_engine", "unmask_kernels"},
    "clients/python/unmask_client": set(),
}
CODE = ("kernels", "engine", "server", "training", "clients", "benchmarks", "tests")
MAX_LINES = 400
NAMES_THAT_SAY_NOTHING = {"utils.py", "helpers.py", "common.py", "misc.py"}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package.rpartition("/")[2]}
    for file in (ROOT / package).rglob("*.py"):
        ours = {name for name in _imported(file) if name.startswith("unmask_")}
        assert ours <= allowed, f"{file.relative_to(ROOT)} imports {', '.join(sorted(ours - allowed))}"


def _imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.relative_to(ROOT)}: relative import"
            names.add((node.module or "").partition(".")[0])
    return names


def test_files_stay_small_and_say_what_they_are() -> None:
    for file in (file for folder in CODE for file in (ROOT / folder).rglob("*.py")):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_LINES, file.relative_to(ROOT)
        assert file.name not in NAMES_THAT_SAY_NOTHING, file.relative_to(ROOT)


def test_tests_are_no_packages() -> None:
    # tests/kernels/__init__.py would become a top-level package called kernels.
    assert not list((ROOT / "tests").rglob("__init__.py"))
