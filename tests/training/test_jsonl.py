"""The published data format: what is read, what is refused and why, and how rows and files become samples."""

import json
from pathlib import Path
from typing import Any

import pytest

from unmask_engine.bundle import load_bundle
from unmask_training import command_convert, command_validate
from unmask_training.convert_data import columns, rows_of_csv, rows_of_folder, write_jsonl
from unmask_training.jsonl import DataError, JsonSample, examine, read_samples

USER, ANSWER = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello"}


def test_samples_are_read_one_by_one_with_their_media(four_samples: Path) -> None:
    samples = list(read_samples(four_samples))
    assert [len(s.messages) for s in samples] == [2, 2, 2, 4]
    assert samples[0].image(0).pixels.shape == (40, 40, 3)
    assert len(samples[2].audio(0).samples) == 16_000


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("{", "not JSON"),
        ([], "a sample is a JSON object, not a list"),
        ({"messages": [USER, ANSWER], "audio": []}, "unknown field audio; there are: messages, audios, images"),
        ({"messages": []}, '"messages" is a list'),
        ({"messages": [USER]}, "roles are user; allowed: system or not, then user and assistant in turn"),
        ({"messages": [USER, {"role": "bot", "content": "a"}]}, "messages[1]: role 'bot'; allowed: system, user"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "messages[1]: content is a text"),
        ({"messages": [USER, {**ANSWER, "content": "<|audio|>"}]}, '1 times <|audio|> in the messages, but 0 paths'),
        ({"messages": [USER, ANSWER], "images": ["a.png"]}, '0 times <|image|> in the messages, but 1 paths'),
        ({"messages": [{**USER, "content": "<|image|>"}, ANSWER], "images": ["no.png"]}, "no such file"),
        ({"messages": [{"role": "system", "content": "<|audio|>"}, USER, ANSWER], "audios": ["a"]}, "text only"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(body: Any, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    text = body if isinstance(body, str) else json.dumps(body)
    file.write_text(json.dumps({"messages": [USER, ANSWER]}) + "\n\n" + text + "\n")
    good, bad = examine(file)
    assert isinstance(good, JsonSample)
    assert str(bad).startswith(f"{file}:3: ")
    assert complaint in str(bad)
    with pytest.raises(DataError):
        list(read_samples(file))


def test_validate_counts_kinds_and_fails_on_problems(four_samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command_validate.main([str(four_samples), "--decode"])
    out = capsys.readouterr().out
    assert "4 samples, all usable" in out
    assert "text + image -> text" in out
    (four_samples.parent / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(SystemExit, match="1 of 4 samples cannot be used"):
        command_validate.main([str(four_samples), "--decode"])
    assert f"{four_samples}:3: " in capsys.readouterr().err


def test_rows_of_a_table_become_samples_of_a_preset(tmp_path: Path) -> None:
    (preset,) = (p for p in load_bundle("unmask-mini").presets if p.task == "svqa")
    assert columns(preset) == ("audio", "image", "answer", "answer_audio")
    table = tmp_path / "rows.csv"
    table.write_text("audio,image,answer,answer_audio\nq.wav,p.png,two,a.wav\n")
    out = tmp_path / "out.jsonl"
    assert write_jsonl(out, preset, rows_of_csv(table)) == 1
    body = json.loads(out.read_text())
    assert body["audios"] == ["q.wav", "a.wav"]
    assert body["images"] == ["p.png"]
    assert body["messages"][1:] == [
        {"role": "user", "content": "<|audio|>\n<|image|>"},
        {"role": "assistant", "content": "two\n<|audio|>"},
    ]
    table.write_text("audio,image,answer\nq.wav,p.png,two\n")
    with pytest.raises(ValueError, match="row 1: answer_audio is empty"):
        write_jsonl(out, preset, rows_of_csv(table))


def test_a_folder_of_files_is_a_table(tmp_path: Path) -> None:
    (tmp_path / "1.text.txt").write_text("who are you\n")
    (tmp_path / "1.answer.txt").write_text("my name is unmask")
    (tmp_path / "2.image.png").write_bytes(b"")
    assert list(rows_of_folder(tmp_path)) == [
        {"text": "who are you", "answer": "my name is unmask"},
        {"image": str((tmp_path / "2.image.png").resolve())},
    ]


def test_the_small_world_makes_samples_that_are_valid(tmp_path: Path) -> None:
    out = tmp_path / "world.jsonl"
    for task in ("t2i", "vqa", "caption", "chat"):
        command_convert.main([str(out), "--task", task, "--world", "2"])
    assert len(list(read_samples(out))) == 8
    command_validate.main([str(out), "--decode"])
