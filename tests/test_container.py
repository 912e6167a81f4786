"""What the image and its manifests say agrees with the package."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from unmask_server.options import flags, variable_name

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
NOT_FLAGS = {"UNMASK_HOME"}  # where bundles lie


def test_the_pinned_versions_are_those_that_the_package_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (DOCKER / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    for text in project["dependencies"] + project["optional-dependencies"]["kernels"]:
        requirement = Requirement(text)
        assert requirement.name in pinned, (
            f"docker/constraints.txt lacks {requirement.name}; its head says how to make it"
        )
        assert requirement.specifier.contains(pinned[requirement.name]), text


def test_every_variable_that_is_set_is_a_flag() -> None:
    known = {variable_name(flag) for flag in flags()} | NOT_FLAGS
    for file in (ROOT / "Dockerfile", ROOT / "docs" / "deployment.md", *DOCKER.rglob("*.yaml")):
        used = set(re.findall(r"UNMASK_[A-Z_]+", file.read_text(encoding="utf-8")))
        assert used <= known, f"{file.name}: {', '.join(used - known)}"


def test_the_pod_outlives_its_running_requests() -> None:
    (deployment,) = yaml.safe_load_all((DOCKER / "k8s" / "deployment.yaml").read_text(encoding="utf-8"))
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    before_stop = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    needed = before_stop + float(variables["UNMASK_SHUTDOWN_TIMEOUT"])
    assert pod["terminationGracePeriodSeconds"] > needed
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/ready", "readiness": "/ready", "liveness": "/health"}
