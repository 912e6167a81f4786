"""Loss curves are drawn from every log below a folder."""

from pathlib import Path

import pytest

from unmask_training.plot_losses import main, read_log, smoothed


def test_every_log_becomes_a_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("ears", "stage1"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "log.csv").write_text("step,loss\n1,3\n2,2\n2,1\n3,0.5\n")
    main([str(tmp_path)])
    assert "2 curves" in capsys.readouterr().out
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert read_log(tmp_path / "ears" / "log.csv") == ([1, 2, 3], [3, 1, 0.5])  # the later value of step 2


def test_an_average_starts_at_the_first_value() -> None:
    assert smoothed([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert 1.0 < smoothed([2.0, 1.0])[1] < 1.5


def test_without_logs_the_command_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
