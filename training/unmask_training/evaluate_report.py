"""Results of an evaluation as files: Markdown to read, JSON to compare, a picture for curves."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unmask_training.evaluate_curves import DIFFERENCE, Result
from unmask_training.tasks import Score


def scores_markdown(scores: Sequence[Score]) -> str:
    lines = ["| task | score | better | samples |", "|---|---|---|---|"]
    for s in scores:
        lines.append(f"| {s.name} | {s} | {'higher' if s.higher_is_better else 'lower'} | {s.samples} |")
    return "\n".join(lines) + "\n"


def results_markdown(results: Sequence[Result]) -> str:
    """A table for each technique: a row a score, a column a setting."""
    parts = []
    for technique in dict.fromkeys(r.technique for r in results):
        found = {(r.score.name, r.setting): r.score for r in results if r.technique == technique}
        settings = list(dict.fromkeys(setting for _, setting in found))
        lines = [f"| {technique} | {' | '.join(settings)} |", "|---" * (len(settings) + 1) + "|"]
        for name in dict.fromkeys(name for name, _ in found):
            cells = (_cell(found[name, s], s) if (name, s) in found else "" for s in settings)
            lines.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _cell(score: Score, setting: str) -> str:
    return f"{score.shown:+.1f}" if setting == DIFFERENCE else str(score)


def scores_json(scores: Sequence[Score]) -> dict[str, float]:
    return {s.name: round(s.value, 4) for s in scores}


def results_json(results: Sequence[Result]) -> dict[str, dict[str, dict[str, float]]]:
    """technique -> score -> setting -> value."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for r in results:
        out.setdefault(r.technique, {}).setdefault(r.score.name, {})[r.setting] = round(r.score.value, 4)
    return out


def draw_curves(
    results: Sequence[Result], out: Path, label: str = "steps (N: tokens of the canvas)", at: Callable[[str], Any] = str
) -> None:
    """Every score over its settings, error rates dashed, into a PNG; a plot for each unit. `at` places a setting."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    units = list(dict.fromkeys(r.score.unit for r in results))
    figure = Figure(figsize=(11, 5 * len(units)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, unit in zip(figure.subplots(len(units), squeeze=False)[:, 0], units, strict=True):
        for name, scores in curves_of(results, unit).items():
            style = "-o" if next(iter(scores.values())).higher_is_better else "--s"
            axes.plot(
                [at(setting) for setting in scores], [score.shown for score in scores.values()], style, label=name
            )
        axes.set_xlabel(label)
        axes.set_ylabel(unit or "value")
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="x-small")
    figure.savefig(out, dpi=110)


def curves_of(results: Sequence[Result], unit: str) -> dict[str, dict[str, Score]]:
    """Score's name -> setting -> score, of the scores in one unit."""
    found: dict[str, dict[str, Score]] = {}
    for r in results:
        if r.score.unit == unit:
            found.setdefault(r.score.name, {})[r.setting] = r.score
    return found


def write(out: Path, name: str, markdown: str, body: Mapping[str, Any]) -> None:
    """`out/name.md` and `out/name.json`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(markdown, encoding="utf-8")
    (out / f"{name}.json").write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
