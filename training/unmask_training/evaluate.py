"""`unmask eval`: scores a bundle on held-out samples of its world, or on a benchmark's manifest, from a fixed seed."""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from unmask_engine.bundle import load_bundle
from unmask_engine.engine import Engine
from unmask_training.evaluate_curves import ABLATED_TASKS, ablations, curves
from unmask_training.evaluate_manifest import ManifestError, score_manifest
from unmask_training.evaluate_report import (
    draw_curves,
    results_json,
    results_markdown,
    scores_json,
    scores_markdown,
    write,
)
from unmask_training.examiner import Examiner
from unmask_training.tasks import MORE, TASKS, Score, scores


def main(arguments: list[str]) -> None:
    """The command `unmask eval`."""
    parser = argparse.ArgumentParser(prog="unmask eval", description="Score a bundle on held-out data.")
    parser.add_argument("--model", default="unmask-mini", help="bundle name or directory")
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"comma-separated, of: {', '.join((*TASKS, *MORE))}")
    parser.add_argument("--samples", type=int, default=200, help="held-out samples a task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves torch's choice")
    parser.add_argument("--out", type=Path, help="folder for the results as Markdown, JSON and PNG")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--curves", action="store_true", help="every task with N, N/2, ... N/16 steps")
    what.add_argument("--ablations", action="store_true", help=f"with and without: {', '.join(ABLATED_TASKS)}")
    what.add_argument("--manifest", type=Path, help="CSV: audio,text or image,question,answer")
    options = parser.parse_args(arguments)
    tasks = options.tasks.split(",")
    if unknown := sorted(set(tasks) - {*TASKS, *MORE}):
        parser.error(f"unknown task {', '.join(unknown)}; there are: {', '.join((*TASKS, *MORE))}")
    if options.samples < 1:
        parser.error("--samples must be at least 1")
    if options.manifest is None:
        _need_judges(parser)
    elif not options.manifest.is_file():
        parser.error(f"--manifest {options.manifest}: there is no such file")
    if options.curves and options.out and find_spec("matplotlib") is None:
        parser.error("the picture of the curves needs matplotlib: pip install 'unmask[train]'")
    if options.threads:
        torch.set_num_threads(options.threads)
    bundle = load_bundle(options.model)
    examiner = Examiner(Engine.load(options.model, options.device), bundle, options.samples, options.seed)
    line = {"model": options.model, "samples": options.samples, "seed": options.seed}
    if options.curves or options.ablations:
        name = "curves" if options.curves else "ablations"
        results = (curves if options.curves else ablations)(examiner, tasks)
        markdown, body = results_markdown(results), {**line, name: results_json(results)}
        print(markdown)
        if options.curves and options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            draw_curves(results, options.out / "curves.png")
    else:
        name = "scores"
        try:
            found = _manifest(examiner, options.manifest) if options.manifest else scores(examiner, tasks)
        except ManifestError as error:
            parser.error(str(error))
        markdown, body = scores_markdown(found), {**line, name: scores_json(found)}
        print_table(found)
    if options.out:
        write(options.out, name, markdown, body)
    print(json.dumps(body))


def _need_judges(parser: argparse.ArgumentParser) -> None:
    if missing := [tool for tool in ("espeak-ng", "flite") if shutil.which(tool) is None]:
        parser.error(f"held-out speech needs {' and '.join(missing)}: apt-get install espeak-ng flite")
    if absent := [name for name in ("scipy", "pocketsphinx") if find_spec(name) is None]:
        parser.error(f"the judges need {' and '.join(absent)}: pip install 'unmask[train]'")


def _manifest(examiner: Examiner, file: Path) -> list[Score]:
    return [Score(name, value, examiner.samples, 0.0) for name, value in score_manifest(examiner, file).items()]


def print_table(scores: Sequence[Score]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "score", "better", "samples")
    for s in scores:
        table.add_row(s.name, str(s), "higher" if s.higher_is_better else "lower", str(s.samples))
    Console(file=sys.stdout, width=100).print(table)
