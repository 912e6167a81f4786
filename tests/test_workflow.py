"""What CI runs is there, and its oldest versions are those that the package allows."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def commands() -> dict[str, list[str]]:
    """Of each job."""
    text = (ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8")
    jobs: dict[str, Any] = yaml.safe_load(text)["jobs"]
    return {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}


def test_targets_scripts_and_tests_are_there(commands: dict[str, list[str]]) -> None:
    everything = "\n".join(command for job in commands.values() for command in job)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    asked = set(re.findall(r"\bmake ([a-z-]+)", everything))
    assert {"check", "install", "image-test"} <= asked <= set(targets)
    paths = re.findall(r"(?:tests/|\.ci/)[\w/.]+", everything)
    assert len(paths) >= 4
    assert all((ROOT / path).exists() for path in paths)


def test_the_oldest_versions_are_the_lower_bounds(commands: dict[str, list[str]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["kernels"]
    requirements = {requirement.name: requirement for requirement in map(Requirement, lines)}
    pinned = re.findall(r"(torch|triton)==([\d.]+)\.\*", "\n".join(commands["oldest"]))
    assert [name for name, _ in pinned] == ["torch", "triton"]
    for name, version in pinned:
        (lowest,) = (s.version for s in requirements[name].specifier if s.operator == ">=")
        assert version == lowest


def test_the_wheel_is_tested_without_the_sources(commands: dict[str, list[str]]) -> None:
    (run,) = (command for command in commands["wheel"] if "pytest" in command)
    assert run.startswith("fresh/bin/pytest -o pythonpath= ")
