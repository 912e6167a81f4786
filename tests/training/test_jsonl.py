"""The published data format: what is read, what is refused and why, and how rows and files become samples."""

import codecs
import json
from pathlib import Path
from typing import Any

import pytest

from unmask_engine.bundle import load_bundle
from unmask_training import command_convert, command_validate
from unmask_training.convert_data import columns, rows_of_csv, rows_of_folder, write_jsonl
from unmask_training.jsonl import MAX_LINE, DataError, JsonSample, examine, read_samples

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
        (b'{"messages": "\xff"}', "not UTF-8: byte 15 is 0xff"),
        (b"[" * 100_000, "within one another without end"),
        (b'{"id": ' + b"9" * 5000 + b"}", "a number of thousands of digits"),
        (b'{"messages": [', "not JSON: Expecting value at column 15"),
        ({"messages": [{**USER, "content": "a\ud800"}, ANSWER]}, "messages[0]: character 2 is half of a surrogate"),
        ({"messages": [{**USER, "content": "<|image|>"}, ANSWER], "images": ["a" * 5000]}, "no such file"),
        ({"messages": [{**USER, "content": "<|image|>"}, ANSWER], "images": ["a\0b"]}, "no such file"),
        ({"messages": [{**USER, "content": "<|image|>"}, ANSWER], "images": ["\ud800"]}, "no such file"),
        ({"messages": [{**USER, "content": "<|image|>"}, ANSWER], "images": ["."]}, "no such file"),
        ({"messages": [{**USER, "content": "<|image|>" * 3}, ANSWER], "images": ["a"]}, "3 times <|image|> in the"),
        (b'"' + b"a" * (MAX_LINE + 5) + b'"', "a line of more than 16 MiB"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(body: Any, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    line = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    file.write_bytes(json.dumps({"messages": [USER, ANSWER]}).encode() + b"\n\n" + line + b"\n")
    good, bad = examine(file)
    assert isinstance(good, JsonSample)
    assert str(bad).startswith(f"{file}:3: ")
    assert complaint in str(bad)
    with pytest.raises(DataError):
        list(read_samples(file))


def test_lines_may_come_from_any_editor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mark of the byte order, CRLF, no newline at the end, line separators within a text: all are JSON lines."""
    file = tmp_path / "samples.jsonl"
    texts = ["caf\u00e9 \U0001f600", "a\u2028b\x85c\x0cd", "last"]
    lines = [json.dumps({"messages": [{**USER, "content": t}, ANSWER]}, ensure_ascii=False).encode() for t in texts]
    long = b"[" + b"1" * (3 * MAX_LINE) + b"]"
    file.write_bytes(codecs.BOM_UTF8 + b"\r\n".join([lines[0], b" ", long, *lines[1:]]))
    one, bad, two, three = examine(file)
    assert [s.messages[0].content for s in (one, two, three) if isinstance(s, JsonSample)] == texts
    assert str(bad).startswith(f"{file}:3: a line of more than")
    assert [s.line for s in (one, two, three) if isinstance(s, JsonSample)] == [1, 4, 5]
    with pytest.raises(SystemExit, match="1 of 4 samples cannot be used"):
        command_validate.main([str(file)])
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    with pytest.raises(SystemExit, match="0 of 0 samples"):
        command_validate.main([str(tmp_path / "empty.jsonl")])


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (b"text,answer\nhi,\xff\n", "is not UTF-8, after line"),
        (b"text,answer\nhi,there,you\n", "line 2 has more columns than the header"),
        (b"text,answer\nhi,there\nhi,<|audio|>\n", "row 2: answer holds <|audio|>"),
        (b'text,answer\nhi,"' + b"a" * 200_000 + b'"\n', "is not CSV, after line 1: field larger"),
        (b"text,answer\nhi,there\nhi,\n", "row 2: answer is empty"),
    ],
)
def test_a_table_with_a_bad_row_adds_nothing(
    table: bytes, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    (tmp_path / "good.csv").write_bytes(codecs.BOM_UTF8 + b"text,answer\r\nhi,there\r\n")  # as spreadsheets write it
    command_convert.main([str(out), "--task", "chat", "--csv", str(tmp_path / "good.csv")])
    before = out.read_bytes()
    (tmp_path / "bad.csv").write_bytes(table)
    with pytest.raises(SystemExit):
        command_convert.main([str(out), "--task", "chat", "--csv", str(tmp_path / "bad.csv")])
    assert complaint in capsys.readouterr().err
    assert out.read_bytes() == before
    assert len(list(read_samples(out))) == 1


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
    (tmp_path / "2.image.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2\.image is there twice"):
        list(rows_of_folder(tmp_path))
    (tmp_path / "2.image.jpg").unlink()
    (tmp_path / "3.text.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"3\.text\.txt is not UTF-8"):
        list(rows_of_folder(tmp_path))


def test_the_small_world_makes_samples_that_are_valid(tmp_path: Path) -> None:
    out = tmp_path / "world.jsonl"
    for task in ("t2i", "vqa", "caption", "chat"):
        command_convert.main([str(out), "--task", task, "--world", "2"])
    assert len(list(read_samples(out))) == 8
    command_validate.main([str(out), "--decode"])
