"""Results of several bundles beside one another, and over the minutes of their training."""

import json
from pathlib import Path

import pytest

from unmask_training import compare_results


def result(folder: Path, name: str, scores: dict[str, float], **more: float) -> Path:
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"model": f"runs/{name}", "samples": 50, "seed": 0, "scores": scores, **more}, indent=2))
    return file


def test_bundles_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = result(tmp_path, "stage1", {"image question": 0.5})
    two = result(tmp_path, "stage2", {"image question": 0.752, "speech to text WER": 0.04})
    compare_results.main([f"gamma 1={one}", str(two), str(two), "--out", str(tmp_path / "out")])
    table = (tmp_path / "out" / "compare.md").read_text()
    assert table.splitlines() == [
        "| task | gamma 1 | stage2 | stage2 (3) |",
        "|---|---|---|---|",
        "| image question | 50.0 % | 75.2 % | 75.2 % |",
        "| speech to text WER |  | 4.0 % | 4.0 % |",
    ]
    assert table in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["compare.md"]  # nobody knows the minutes


def test_scores_are_drawn_over_the_minutes(tmp_path: Path) -> None:
    late = result(tmp_path, "late", {"image question": 0.9, "speech codec PSNR": 20.0}, minutes=40.25)
    lines = tmp_path / "lines.jsonl"
    early = {"model": "early", "samples": 5, "scores": {"image question": 0.5}}
    lines.write_text("t2i: 3.1 s\n" + json.dumps({**early, "minutes": 5.0}) + "\n")
    out = tmp_path / "out"
    compare_results.main([str(late), str(lines), "--out", str(out)])
    assert (out / "curve.md").read_text().splitlines()[0] == "| minutes | 5 | 40.25 |"
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    compare_results.main([str(late), str(lines), "--minutes", "7,3", "--out", str(out)])
    assert (out / "curve.md").read_text().splitlines()[0] == "| minutes | 3 | 7 |"


@pytest.mark.parametrize(
    ("text", "options", "complaint"),
    [
        ('{"model": "a", "steps": {}}', [], "holds no scores"),
        ("", [], "holds no scores"),
        ('{"model": "a", "scores": {"x": 1}}', ["--minutes", "1,2"], "2 numbers for 1 results"),
        ('{"model": "a", "scores": {"x": 1}}', ["--minutes", "soon"], "could not convert"),
    ],
)
def test_what_cannot_be_compared_is_said(
    text: str, options: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SystemExit):
        compare_results.main([str(tmp_path / "a.json"), *options])
    assert complaint in capsys.readouterr().err
    with pytest.raises(SystemExit):
        compare_results.main([str(tmp_path / "none.json")])
