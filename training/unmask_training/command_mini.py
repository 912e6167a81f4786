"""`unmask train mini`: the recipe of the built-in model in one command."""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SHARED = "backbone"  # the part that several processes can share; every other one would only be done several times


def main(arguments: list[str]) -> None:
    from unmask_training.devices import chosen
    from unmask_training.recipe import CONFIG, PARTS, make

    parser = argparse.ArgumentParser(
        prog="unmask train mini",
        description="Make the built-in model. A killed run goes on where it was; finished parts are skipped.",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of: {', '.join(PARTS)}; default: all, in this order")
    parser.add_argument("--work", type=Path, default=Path("runs/unmask-mini"), help="folder for everything it makes")
    parser.add_argument("--config", type=Path, default=CONFIG, help="TOML; default: the shipped mini.toml")
    parser.add_argument("--processes", type=int, default=1, help=f"for the part {SHARED}, one thread each")
    parser.add_argument("--threads", type=int, default=0, help="torch threads a process; 0 leaves torch's choice")
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:N; default: cuda where there is one, else cpu")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"unknown part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    if not options.config.is_file():
        parser.error(f"--config {options.config}: there is no such file")
    try:
        device = chosen(options.device)
    except ValueError as error:
        parser.error(f"--device: {error}")
    if options.processes < 1:
        parser.error("--processes must be at least 1")
    parts = options.parts or list(PARTS)
    if "data" in parts and (missing := [tool for tool in ("espeak-ng", "flite") if shutil.which(tool) is None]):
        parser.error(f"the part data needs {' and '.join(missing)}: apt-get install espeak-ng flite")
    for part in parts:
        if part == SHARED and options.processes > 1:
            _share(options.work, part, options.config, options.processes, device.type)
        else:
            make(options.work, [part], options.config, options.threads, device)
    print(f"the bundle lies in {options.work / 'bundle'}" if "bundle" in parts else f"done, in {options.work}")


def _share(work: Path, part: str, config: Path, processes: int, device: str) -> None:
    """The part in several processes that average their gradients (parallel.py), each on a core or a GPU of its own."""
    launcher: Sequence[str] = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes))
    recipe = ("-m", "unmask_training.recipe", str(work), part, "--config", str(config), "--threads", "1")
    if code := subprocess.run((*launcher, *recipe, "--device", device)).returncode:
        sys.exit(code)
