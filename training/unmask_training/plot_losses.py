"""`unmask train plot`: the loss curves of a training as one picture, from the `log.csv` of each of its parts."""

import argparse
import csv
from importlib.util import find_spec
from pathlib import Path

SMOOTHING = 0.8  # of the average drawn over the raw values: what a value weighs beside the next one
COLUMNS = 3


def read_log(path: Path) -> tuple[list[float], list[float]]:
    """Steps and losses of one log. Where a killed run logged a step again, the later value holds."""
    with path.open(newline="") as file:
        found = {float(row["step"]): float(row["loss"]) for row in csv.DictReader(file)}
    return sorted(found), [found[step] for step in sorted(found)]


def smoothed(values: list[float]) -> list[float]:
    """The exponential average of what came before each value, which weighs more the nearer it is."""
    out: list[float] = []
    total = weight = 0.0
    for value in values:
        total, weight = SMOOTHING * total + value, SMOOTHING * weight + 1
        out.append(total / weight)
    return out


def plot(work: Path, out: Path) -> int:
    """Draw every `log.csv` below `work` into the PNG `out`; returns how many there were."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    logs = [log for log in sorted(work.rglob("log.csv")) if len(read_log(log)[0]) > 1]
    if not logs:
        return 0
    rows = -(-len(logs) // COLUMNS)
    figure = Figure(figsize=(5 * COLUMNS, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for i, log in enumerate(logs):
        axes = figure.add_subplot(rows, COLUMNS, i + 1)
        steps, losses = read_log(log)
        axes.plot(steps, losses, alpha=0.3)
        axes.plot(steps, smoothed(losses))
        axes.set_title(str(log.parent.relative_to(work)) if log.parent != work else work.name)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        if min(losses) > 0:
            axes.set_yscale("log")
    figure.savefig(out, dpi=110)
    return len(logs)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="unmask train plot", description="Draw the loss curves of a training.")
    parser.add_argument("work", type=Path, help="its folder: --work of `mini`, --out of `finetune`")
    parser.add_argument("--out", type=Path, help="PNG; default: WORK/loss.png")
    options = parser.parse_args(arguments)
    out = options.out or options.work / "loss.png"
    if not options.work.is_dir():
        parser.error(f"{options.work} is no folder")
    if find_spec("matplotlib") is None:
        parser.error("curves need matplotlib: pip install 'unmask[train]'")
    if not (count := plot(options.work, out)):
        parser.error(f"no log.csv with two rows below {options.work}: a loss is logged every few steps")
    print(f"{count} curves in {out}")
