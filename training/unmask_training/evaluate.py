"""`unmask eval`: scores a bundle on held-out samples of its world, or on a benchmark's manifest, from a fixed seed."""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from unmask_engine.bundle import load_bundle
from unmask_engine.engine import Engine
from unmask_training.evaluate_clip import ClipError, load_clip
from unmask_training.evaluate_curves import ABLATED_TASKS, Result, ablations, curves, half
from unmask_training.evaluate_manifest import COLUMNS, ClipScore, ManifestError, score_manifest
from unmask_training.evaluate_report import (
    draw_curves,
    results_json,
    results_markdown,
    scores_json,
    scores_markdown,
    write,
)
from unmask_training.examiner import Examiner, NothingNewError
from unmask_training.seen import trained_minutes
from unmask_training.tasks import MORE, TASKS, Score, possible, scores

_SETTINGS: Mapping[str, Callable[[Examiner, Sequence[str]], list[Result]]] = {
    "curves": curves, "half": half, "ablations": ablations,
}  # fmt: skip


def main(arguments: list[str]) -> None:
    """The command `unmask eval`."""
    parser = argparse.ArgumentParser(prog="unmask eval", description="Score a bundle on held-out data.")
    known = ", ".join((*TASKS, *MORE))
    parser.add_argument("--model", default="unmask-mini", help="bundle name or directory")
    parser.add_argument(
        "--tasks", help=f"comma-separated, of: {known}; default: all that the bundle can do but the last two"
    )
    parser.add_argument("--samples", type=int, default=200, help="held-out samples a task")
    parser.add_argument("--spoken-samples", type=int, help="fewer, of tasks that answer with speech: tts, svqa, sqa")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves torch's choice")
    parser.add_argument("--out", type=Path, help="folder for the results as Markdown, JSON and PNG")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--curves", action="store_true", help="every task with N, N/2, ... N/16 steps")
    what.add_argument("--half", action="store_true", help="every task with half of its preset's steps, and the loss")
    what.add_argument("--ablations", action="store_true", help=f"with and without: {', '.join(ABLATED_TASKS)}")
    headers = " or ".join(",".join(columns) for columns in COLUMNS)
    what.add_argument("--manifest", type=Path, help=f"CSV with the header {headers}")
    parser.add_argument("--clip", type=Path, help="folder of a CLIP model, to judge what is drawn of captions")
    options = parser.parse_args(arguments)
    asked = options.tasks.split(",") if options.tasks else list(TASKS)
    if unknown := sorted(set(asked) - {*TASKS, *MORE}):
        parser.error(f"unknown task {', '.join(unknown)}; there are: {known}")
    if options.samples < 1 or (options.spoken_samples is not None and options.spoken_samples < 1):
        parser.error("--samples and --spoken-samples must be at least 1")
    if options.manifest is None:
        _need_judges(parser)
    elif not options.manifest.is_file():
        parser.error(f"--manifest {options.manifest}: there is no such file")
    try:
        clip = load_clip(options.clip) if options.clip else None
    except ClipError as error:
        parser.error(str(error))
    if options.curves and options.out and find_spec("matplotlib") is None:
        parser.error("the picture of the curves needs matplotlib: pip install 'unmask[train]'")
    if options.threads:
        torch.set_num_threads(options.threads)
    bundle = load_bundle(options.model)
    tasks = possible(bundle, asked)
    if options.tasks and tasks != asked:
        parser.error(f"the bundle {bundle.name} can not do {', '.join(sorted(set(asked) - set(tasks)))}")
    engine = Engine.load(options.model, options.device)
    examiner = Examiner(engine, bundle, options.samples, options.seed, options.spoken_samples)
    try:
        name, markdown, found = _measured(examiner, options, tasks, clip)
    except (ManifestError, NothingNewError) as error:
        parser.error(str(error))
    body = {"model": options.model, "samples": options.samples, "seed": options.seed, name: found}
    if (minutes := trained_minutes(bundle.path)) is not None:
        body["minutes"] = minutes
    if options.out:
        write(options.out, name, markdown, body)
    print(json.dumps(body))


def _need_judges(parser: argparse.ArgumentParser) -> None:
    if missing := [tool for tool in ("espeak-ng", "flite") if shutil.which(tool) is None]:
        parser.error(f"held-out speech needs {' and '.join(missing)}: apt-get install espeak-ng flite")
    if absent := [name for name in ("scipy", "pocketsphinx") if find_spec(name) is None]:
        parser.error(f"the judges need {' and '.join(absent)}: pip install 'unmask[train]'")


def _measured(
    examiner: Examiner, options: argparse.Namespace, tasks: Sequence[str], clip: ClipScore | None
) -> tuple[str, str, Mapping[str, Any]]:
    """What was measured, as a name, as Markdown and for JSON; printed."""
    if name := next((n for n in _SETTINGS if getattr(options, n)), None):
        results = _SETTINGS[name](examiner, tasks)
        markdown = results_markdown(results)
        print(markdown)
        if options.curves and options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            draw_curves(results, options.out / "curves.png")
        return name, markdown, results_json(results)
    if options.manifest:
        started = time.perf_counter()
        measures = score_manifest(examiner, options.manifest, clip)
        seconds = time.perf_counter() - started
        found = [Score(n, m.value, m.samples, seconds) for n, m in measures.items()]
    else:
        found = scores(examiner, tasks)
    print_table(found)
    return "scores", scores_markdown(found), scores_json(found)


def print_table(scores: Sequence[Score]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "score", "better", "samples")
    for s in scores:
        table.add_row(s.name, str(s), "higher" if s.higher_is_better else "lower", str(s.samples))
    Console(file=sys.stdout, width=100).print(table)
