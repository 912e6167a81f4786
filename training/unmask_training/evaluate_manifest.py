"""Real benchmarks as a table of files: recordings or texts, pictures with questions and answers.

A CSV with one of these headers. Relative paths start at the CSV's folder.

- `audio,text` (LibriSpeech): word error rate of what is heard.
- `text` (LibriTTS): word error rate of what is said, by the model's own ears.
- `image,question,answer` (POPE, COCO captions): exact answers, how much of the answer's words is found, and for answers
  that are yes or no whether that is what the answer says, however it says it.
- `image,question,answer,category` (MME): the same a category, with acc+, the pictures of which all questions are right.
- `caption` (COCO): pictures drawn from captions, scored by CLIP (evaluate_clip.py).
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from unmask_engine.media import MediaLimits, read_audio, read_image
from unmask_engine.request import ImagePart, TextPart
from unmask_training.examiner import Examiner, Measure, Measures, audio_of, error_rate, share

COLUMNS = (
    ("audio", "text"), ("text",), ("image", "question", "answer"), ("image", "question", "answer", "category"),
    ("caption",),
)  # fmt: skip
_MEDIA = ("audio", "image")
_LIMITS = MediaLimits(max_bytes=200_000_000, max_pixels=100_000_000)
Row = Mapping[str, str]
ClipScore = Callable[[Sequence[ImagePart], Sequence[str]], list[float]]


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
    for number, row in enumerate(rows, 2):
        if None in row or not all(row.values()):
            raise ManifestError(f"{file}:{number}: a value is empty, or there is one too many")
        for path in (file.parent / row[column] for column in _MEDIA if column in row):
            if not path.is_file():
                raise ManifestError(f"{file}:{number}: no such file: {path}")
    if not rows:
        raise ManifestError(f"{file} has no rows")
    return rows


def normal(text: str) -> str:
    """Lower case, words only: what is compared."""
    return " ".join(re.findall(r"[\w']+", text.lower()))


def yes_or_no(answer: str) -> str | None:
    """What an answer says, by its first yes or no: 'Yes, there is.' is a yes, 'There is no dog' a no."""
    said = [word for word in normal(answer).split() if word in ("yes", "no", "not")]
    return None if not said else "yes" if said[0] == "yes" else "no"


def score_manifest(examiner: Examiner, file: Path, clip: ClipScore | None = None) -> Measures:
    """The scores of a manifest's kind. `clip` judges drawings."""
    rows = read_manifest(file, examiner.samples)
    columns = rows[0].keys()
    if "audio" in columns:
        return {f"{file.stem}, WER": _heard(examiner, file, rows)}
    if "caption" in columns:
        if clip is None:
            raise ManifestError(f"{file} has captions to draw: give --clip, a folder with a CLIP model")
        return {f"{file.stem}, CLIP score": _drawn(examiner, rows, clip)}
    if "text" in columns:
        return {f"{file.stem}, text -> speech WER, own ears": _said(examiner, rows)}
    return _answered(examiner, file, rows)


def _heard(examiner: Examiner, file: Path, rows: Sequence[Row]) -> Measure:
    heard = examiner.ears([read_audio((file.parent / row["audio"]).read_bytes(), _LIMITS) for row in rows])
    return error_rate([(normal(row["text"]), normal(text)) for row, text in zip(rows, heard, strict=True)])


def _said(examiner: Examiner, rows: Sequence[Row]) -> Measure:
    made = examiner.answers([(TextPart(row["text"]),) for row in rows], ("audio",), "tts")
    heard = examiner.ears([audio_of(g) for g in made])
    return error_rate([(normal(row["text"]), normal(text)) for row, text in zip(rows, heard, strict=True)])


def _drawn(examiner: Examiner, rows: Sequence[Row], clip: ClipScore) -> Measure:
    texts = [row["caption"] for row in rows]
    made = examiner.answers([(TextPart(text),) for text in texts], ("image",), "t2i")
    pairs = [(g.image, text) for g, text in zip(made, texts, strict=True) if g.image is not None]
    found = clip([image for image, _ in pairs], [text for _, text in pairs])
    return Measure(sum(found) / len(rows), len(rows))  # a picture that was not drawn counts as 0


def _answered(examiner: Examiner, file: Path, rows: Sequence[Row]) -> Measures:
    parts = [
        (TextPart(row["question"]), read_image((file.parent / row["image"]).read_bytes(), _LIMITS)) for row in rows
    ]
    said = [g.text or "" for g in examiner.answers(parts, ("text",), "vqa")]
    answers = [(normal(row["answer"]), normal(text)) for row, text in zip(rows, said, strict=True)]
    parts_found = [
        len([w for w in true.split() if w in text.split()]) / len(true.split() or " ") for true, text in answers
    ]
    found = {
        f"{file.stem}, exact answer": share([true == text for true, text in answers]),
        f"{file.stem}, words of the answer found": Measure(sum(parts_found) / len(rows), len(rows)),
    }
    if all(true in ("yes", "no") for true, _ in answers):
        found |= _yes_no(file.stem, rows, [yes_or_no(text) == true for true, text in answers])
    return found


def _yes_no(name: str, rows: Sequence[Row], right: Sequence[bool]) -> Measures:
    """acc of all; where there are categories also of each, with acc+."""
    found = {f"{name}, yes or no": share(right)}
    for category in dict.fromkeys(row["category"] for row in rows if "category" in row):
        chosen = [(row["image"], r) for row, r in zip(rows, right, strict=True) if row["category"] == category]
        pictures = [all(r for image, r in chosen if image == one) for one in dict.fromkeys(i for i, _ in chosen)]
        found[f"{name}, {category}, acc"] = share([r for _, r in chosen])
        found[f"{name}, {category}, acc+"] = share(pictures)
    return found
