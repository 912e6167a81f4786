"""`unmask train`: what it lists, what it refuses, and that a finished part of the recipe is not made again."""

from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from unmask_training import command, command_mini
from unmask_training.recipe import PARTS


def test_the_command_line_finds_it() -> None:
    (found,) = entry_points(group="unmask.commands", name="train")
    assert found.load() is command.main


def test_help_names_every_command_and_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    command.main([])
    listed = capsys.readouterr().out
    for name, (module, _) in command.COMMANDS.items():
        assert name in listed
        with pytest.raises(SystemExit) as ended:
            import_module(module).main(["--help"])
        assert ended.value.code == 0
        assert f"unmask train {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["mine"], "no command 'mine'; there are: mini, plot"),
        (["mini", "brain"], "unknown part brain; there are: data"),
        (["mini", "bundle", "--config", "no.toml"], "--config no.toml: there is no such file"),
        (["finetune", "--data", "no.jsonl", "--out", "x", "--steps", "1"], "no.jsonl: there is no such file"),
    ],
)
def test_mistakes_are_named(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert complaint in f"{ended.value.code}{capsys.readouterr().err}"


def test_finished_parts_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask_training.recipe.fast_denormals", lambda: None)  # it would outlast the test
    for done, _ in PARTS.values():
        (tmp_path / done).parent.mkdir(exist_ok=True)
        (tmp_path / done).touch()
    command_mini.main(["ears", "bundle", "--work", str(tmp_path), "--threads", "1"])
    out = capsys.readouterr().out
    assert "ears: done already\nbundle: done already\n" in out
    assert str(tmp_path / "bundle") in out
