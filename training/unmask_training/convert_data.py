"""Rows of a table -> JSONL samples, by the presets of a bundle: what is trained is then exactly what is served.

A row's columns are those of its task: what goes in is called `text`, `audio`, `image`, what comes out `answer`,
`answer_audio`, `answer_image`. So recognition has `audio,answer`, text to image `text,answer_image`.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unmask_engine.preset import AUDIO_SLOT, IMAGE_SLOT, TEXT_SLOT, Preset
from unmask_engine.request import Modality

ANSWERS: Mapping[Modality, str] = {"text": "answer", "audio": "answer_audio", "image": "answer_image"}
CONTENTS: Mapping[Modality, str] = {"text": TEXT_SLOT, "audio": AUDIO_SLOT, "image": IMAGE_SLOT}
SLOTS = (AUDIO_SLOT, IMAGE_SLOT)
Row = Mapping[str, str]


def columns(preset: Preset) -> tuple[str, ...]:
    """What a row of this task must have."""
    return (*preset.inputs, *(ANSWERS[modality] for modality in preset.outputs))


def sample(preset: Preset, row: Row) -> dict[str, Any]:
    """One object of the JSONL format. Raises ValueError for a row that lacks something or holds a placeholder."""
    if slots := [name for name in ("text", "answer") for slot in SLOTS if slot in row.get(name, "")]:
        raise ValueError(f"{slots[0]} holds {AUDIO_SLOT} or {IMAGE_SLOT}, which stand for a file; name it in a column")
    if lacking := [name for name in columns(preset) if not row.get(name, "").strip()]:
        raise ValueError(f"{', '.join(lacking)} is empty; task {preset.task} needs {', '.join(columns(preset))}")
    messages = [
        {"role": message.role, "content": message.content.replace(TEXT_SLOT, row.get("text", ""))}
        for message in preset.messages
    ]
    # A text comes before its speech, on a line of its own.
    answer = "\n".join(CONTENTS[modality] for modality in preset.outputs).replace(TEXT_SLOT, row.get("answer", ""))
    body: dict[str, Any] = {"messages": [*messages, {"role": "assistant", "content": answer}]}
    for name, column in (("audios", "audio"), ("images", "image")):
        if paths := [row[c] for c in (column, f"answer_{column}") if c in columns(preset)]:
            body[name] = paths
    return body


def rows_of_csv(file: Path) -> Iterator[Row]:
    """The rows of a CSV with a header. Paths in it are taken as they are. Raises ValueError with the number of a line
    that is not UTF-8 or not CSV."""
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        try:
            for row in reader:
                if None in row:
                    raise ValueError(f"line {reader.line_num} has more columns than the header")
                yield {name: value or "" for name, value in row.items()}
        except UnicodeDecodeError:
            raise ValueError(f"{file} is not UTF-8, after line {reader.line_num}") from None
        except csv.Error as error:
            raise ValueError(f"{file} is not CSV, after line {reader.line_num}: {error}") from None


def rows_of_folder(folder: Path) -> Iterator[Row]:
    """Files called NAME.COLUMN.EXTENSION, a row for each NAME: `17.audio.wav` beside `17.answer.txt`."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted(folder.iterdir()):
        name, column, extension = (*file.name.rsplit(".", 2), "", "")[:3]
        if extension:
            row = found.setdefault(name, {})
            if column in row:
                raise ValueError(f"{name}.{column} is there twice; one of them is {file.name}")
            row[column] = _text(file) if column in ("text", "answer") else str(file.resolve())
    yield from found.values()


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8") from None


def write_jsonl(out: Path, preset: Preset, rows: Iterable[Row]) -> int:
    """Append to `out`; returns the number of samples. Raises ValueError with the number of a bad row: then `out` stays
    as it was, so that the same command can be given again."""
    count = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("ab") as file:
        before = file.tell()
        try:
            for number, row in enumerate(rows, 1):
                try:
                    file.write(json.dumps(sample(preset, row), ensure_ascii=False).encode() + b"\n")
                except ValueError as error:
                    raise ValueError(f"row {number}: {error}") from None
                count += 1
        except BaseException:
            file.truncate(before)
            raise
    return count
