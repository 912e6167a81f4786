"""`unmask train compare`: what `unmask eval` found of several bundles, in one table; over training time, as a curve.

Stages, ratios of pads and minutes are compared by training, so each is a bundle of its own and a result of its own.
"""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unmask_training.evaluate_curves import Result
from unmask_training.evaluate_report import draw_curves, results_markdown
from unmask_training.tasks import Score

EPILOG = "FILE: scores.json of `unmask eval --out`, or lines that `unmask eval` printed. NAME: the column's head."


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="unmask train compare", description="Scores of several bundles in one table.", epilog=EPILOG
    )
    parser.add_argument("files", nargs="+", metavar="[NAME=]FILE", help="results, in the order of the columns")
    parser.add_argument("--minutes", help="of training of each result: 5,20,60; default: what the results say")
    parser.add_argument("--out", type=Path, help="folder for compare.md, and for curve.png where minutes are known")
    options = parser.parse_args(arguments)
    try:
        found = [result for name in options.files for result in read(name)]
        if options.minutes:
            found = dated(found, [float(minutes) for minutes in options.minutes.split(",")])
    except (OSError, ValueError) as error:
        parser.error(str(error))
    has_minutes = all("minutes" in body for _, body in found)
    if has_minutes and options.out and find_spec("matplotlib") is None:
        parser.error("the curve needs matplotlib: pip install 'unmask[train]'")
    table = results_markdown(results(found))
    print(table)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "compare.md").write_text(table, encoding="utf-8")
        if has_minutes:
            ordered = over_time(found)
            (options.out / "curve.md").write_text(results_markdown(ordered), encoding="utf-8")
            draw_curves(ordered, options.out / "curve.png", "minutes of training of the backbone", float)


def read(argument: str) -> list[tuple[str, dict[str, Any]]]:
    """The results in a file with their names: NAME, or the model's. Raises ValueError for what holds no scores."""
    name, _, path = argument.rpartition("=") if not Path(argument).exists() else ("", "", argument)
    text = Path(path).read_text(encoding="utf-8")
    try:
        bodies = [json.loads(text)]
    except json.JSONDecodeError:
        bodies = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    if not bodies or not all(isinstance(body, dict) and body.get("scores") for body in bodies):
        raise ValueError(f"{path} holds no scores: give what `unmask eval` wrote without --curves, --half, --ablations")
    return [(name or Path(body["model"]).name, body) for body in bodies]


def dated(found: list[tuple[str, dict[str, Any]]], minutes: list[float]) -> list[tuple[str, dict[str, Any]]]:
    if len(minutes) != len(found):
        raise ValueError(f"--minutes has {len(minutes)} numbers for {len(found)} results")
    return [(name, {**body, "minutes": at}) for (name, body), at in zip(found, minutes, strict=True)]


def results(found: list[tuple[str, dict[str, Any]]]) -> list[Result]:
    """A setting for each result, named once: a second one of a name is called after its number."""
    made: list[Result] = []
    taken: set[str] = set()
    for number, (name, body) in enumerate(found, 1):
        setting = name if name not in taken else f"{name} ({number})"
        taken.add(setting)
        made += _scores("task", setting, body)
    return made


def over_time(found: list[tuple[str, dict[str, Any]]]) -> list[Result]:
    """A setting for each of the minutes, rising."""
    ordered = sorted(found, key=lambda named: float(named[1]["minutes"]))
    return [result for _, body in ordered for result in _scores("minutes", f"{body['minutes']:g}", body)]


def _scores(technique: str, setting: str, body: dict[str, Any]) -> list[Result]:
    samples = int(body.get("samples", 0))
    return [Result(technique, setting, Score(name, value, samples, 0.0)) for name, value in body["scores"].items()]
