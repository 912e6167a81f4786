"""Samples of the small world as rows of `convert_data`, with their pictures and recordings as files."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unmask_engine.media import write_audio, write_image
from unmask_engine.request import AudioPart, ImagePart
from unmask_training.convert_data import Row
from unmask_training.language import SMALL_TALK, as_typed, caption, questions, sentence
from unmask_training.render import render
from unmask_training.voices import SPEAKING_VOICE, Delivery, any_delivery, record
from unmask_training.world import Scene, describable_scene, free_scene


def world_rows(task: str, count: int, seed: int, folder: Path) -> Iterator[Row]:
    """`count` rows of a task; media go into `folder`, and are named from the folder around it.

    Raises ValueError for a task that the world does not have.
    """
    draw = TASKS.get(task)
    if draw is None:
        raise ValueError(f"the small world has no task {task!r}; it has: {', '.join(TASKS)}")
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"{seed} {task}")
    for i in range(count):
        yield draw(rng, folder / f"{task}-{seed}-{i:06}")


def _t2i(rng: random.Random, stem: Path) -> Row:
    scene = describable_scene(rng)
    return {"text": as_typed(caption(scene, rng), rng), "answer_image": _picture(scene, None, stem)}


def _vqa(rng: random.Random, stem: Path) -> Row:
    scene = free_scene(rng)
    _, question, answer = rng.choice(questions(scene, rng))
    return {"text": as_typed(question, rng), "image": _picture(scene, rng, stem), "answer": answer}


def _caption(rng: random.Random, stem: Path) -> Row:
    scene = free_scene(rng)
    (answer,) = (answer for kind, _, answer in questions(scene, rng) if kind == "describe")
    return {"image": _picture(scene, rng, stem), "answer": answer}


def _asr(rng: random.Random, stem: Path) -> Row:
    text = sentence(rng, describable_scene(rng))
    return {"audio": _heard(text, rng, stem), "answer": text}


def _tts(rng: random.Random, stem: Path) -> Row:
    text = sentence(rng, describable_scene(rng))
    return {"text": text, "answer_audio": _spoken(text, stem)}


def _s2i(rng: random.Random, stem: Path) -> Row:
    scene = describable_scene(rng)
    return {"audio": _heard(caption(scene, rng), rng, stem), "answer_image": _picture(scene, None, stem)}


def _svqa(rng: random.Random, stem: Path) -> Row:
    row = _vqa(rng, stem)
    heard = _heard(row["text"].lower().rstrip(".?"), rng, stem)
    return {
        "audio": heard,
        "image": row["image"],
        "answer": row["answer"],
        "answer_audio": _spoken(row["answer"], stem),
    }


def _sqa(rng: random.Random, stem: Path) -> Row:
    row = _chat(rng, stem)
    heard = _heard(row["text"].lower().rstrip(".?"), rng, stem)
    return {"audio": heard, "answer": row["answer"], "answer_audio": _spoken(row["answer"], stem)}


def _chat(rng: random.Random, stem: Path) -> Row:
    answer = rng.choice(tuple(SMALL_TALK))
    return {"text": as_typed(rng.choice(SMALL_TALK[answer]), rng), "answer": answer}


TASKS: dict[str, Callable[[random.Random, Path], Row]] = {
    "t2i": _t2i, "vqa": _vqa, "caption": _caption, "asr": _asr, "tts": _tts, "s2i": _s2i, "svqa": _svqa,
    "sqa": _sqa, "chat": _chat,
}  # fmt: skip


def _picture(scene: Scene, rng: random.Random | None, stem: Path) -> str:
    return _written(stem, "png", write_image(ImagePart(render(scene, 128, rng)), "png"))


def _heard(text: str, rng: random.Random, stem: Path) -> str:
    return _recording(record(text, any_delivery(rng), 16_000), 16_000, stem, "asked.wav")


def _spoken(text: str, stem: Path) -> str:
    return _recording(record(text, Delivery(SPEAKING_VOICE), 22_050), 22_050, stem, "answer.wav")


def _recording(samples: NDArray[np.float32], rate: int, stem: Path, ending: str) -> str:
    return _written(stem, ending, write_audio(AudioPart(samples, rate), "wav"))


def _written(stem: Path, ending: str, data: bytes) -> str:
    path = stem.with_name(f"{stem.name}.{ending}")
    path.write_bytes(data)
    return f"{path.parent.name}/{path.name}"
