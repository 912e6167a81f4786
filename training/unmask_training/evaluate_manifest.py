"""Real benchmarks as a table of files: recordings with their text, pictures with questions and answers.

A CSV with the columns `audio,text` (LibriSpeech: word error rate) or `image,question,answer` (COCO captions, POPE:
exact answers, and how much of the answer's words is found). Relative paths start at the CSV's folder.
"""

import csv
import re
from itertools import islice
from pathlib import Path

from unmask_engine.media import MediaLimits, read_audio, read_image
from unmask_engine.request import TextPart
from unmask_training.examiner import Examiner, mean
from unmask_training.listeners import word_error_rate

COLUMNS = (("audio", "text"), ("image", "question", "answer"))
_LIMITS = MediaLimits(max_bytes=200_000_000, max_pixels=100_000_000)


class ManifestError(ValueError):
    """What is wrong with a manifest, and what is allowed."""


def read_manifest(file: Path, count: int) -> list[dict[str, str]]:
    """The first `count` rows, with files that exist."""
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if tuple(reader.fieldnames or ()) not in COLUMNS:
            allowed = " or ".join(",".join(columns) for columns in COLUMNS)
            raise ManifestError(f"{file}: the header is {','.join(reader.fieldnames or ())}; it may be {allowed}")
        rows = list(islice(reader, count))
    media = next(iter(rows[0])) if rows else ""
    for number, row in enumerate(rows, 2):
        if not all(row.values()):
            raise ManifestError(f"{file}:{number}: a value is empty")
        if not (file.parent / row[media]).is_file():
            raise ManifestError(f"{file}:{number}: no such file: {file.parent / row[media]}")
    if not rows:
        raise ManifestError(f"{file} has no rows")
    return rows


def normal(text: str) -> str:
    """Lower case, words only: what is compared."""
    return " ".join(re.findall(r"[\w']+", text.lower()))


def score_manifest(examiner: Examiner, file: Path) -> dict[str, float]:
    """The scores of a manifest's kind."""
    rows = read_manifest(file, examiner.samples)
    if "audio" in rows[0]:
        heard = examiner.ears([read_audio((file.parent / row["audio"]).read_bytes(), _LIMITS) for row in rows])
        pairs = [(normal(row["text"]), normal(text)) for row, text in zip(rows, heard, strict=True)]
        return {f"{file.stem}, WER": word_error_rate(pairs)}
    parts = [
        (TextPart(row["question"]), read_image((file.parent / row["image"]).read_bytes(), _LIMITS)) for row in rows
    ]
    made = examiner.answers(list(parts), ("text",), "vqa")
    answers = [(normal(row["answer"]), normal(g.text or "")) for row, g in zip(rows, made, strict=True)]
    found = [sum(word in said.split() for word in true.split()) / max(1, len(true.split())) for true, said in answers]
    return {
        f"{file.stem}, exact answer": mean([true == said for true, said in answers]),
        f"{file.stem}, words of the answer found": sum(found) / len(found),
    }
