"""The built-in bundle as it ships: small, valid, and able to do every task. How well is `unmask eval`'s business."""

from pathlib import Path

import numpy as np
import pytest

from unmask_engine.bundle import load_bundle
from unmask_engine.check import check_bundle
from unmask_engine.engine import Engine
from unmask_engine.request import AudioPart, Generation, GenerationRequest, ImagePart, Modality, Part, TextPart
from unmask_training.language import words
from unmask_training.render import render
from unmask_training.scene_reader import read_scene
from unmask_training.world import Scene, Thing

MEGABYTE = 1e6
RED_CIRCLE = Scene((Thing("circle", "red", "large", 0.5, 0.5, 0.24),), "white", "place")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load("unmask-mini")


def ask(engine: Engine, parts: tuple[Part, ...], *outputs: Modality) -> Generation:
    (made,) = engine.generate([GenerationRequest(parts, outputs)])
    return made


def picture() -> ImagePart:
    return ImagePart(render(RED_CIRCLE))


def test_it_is_valid_and_small() -> None:
    bundle = load_bundle("unmask-mini")
    assert check_bundle("unmask-mini").ok
    assert sum(f.stat().st_size for f in Path(bundle.path).iterdir()) < 40 * MEGABYTE


def test_it_draws_what_is_asked(engine: Engine) -> None:
    made = ask(engine, (TextPart("a large red circle"),), "image")
    assert made.image is not None
    assert made.image.pixels.shape == (128, 128, 3)
    assert [thing.name for thing in read_scene(made.image.pixels)] == ["red circle"]


def test_it_answers_questions_in_the_words_of_its_world(engine: Engine) -> None:
    answer = ask(engine, (TextPart("what color is the circle?"), picture()), "text")
    assert answer.text
    assert set(answer.text.split()) <= set(words())
    assert not answer.truncated


def test_it_speaks(engine: Engine) -> None:
    said = ask(engine, (TextPart("a red circle"),), "audio").audio
    assert said is not None
    assert said.sample_rate == 22_050
    assert 0.5 < len(said.samples) / said.sample_rate < 4
    assert np.abs(said.samples).max() > 0.05


def test_it_takes_speech_to_text_to_an_image_and_to_a_spoken_answer(engine: Engine) -> None:
    question = ask(engine, (TextPart("what color is the circle"),), "audio").audio
    assert question is not None
    assert ask(engine, (question,), "text").text
    drawn = ask(engine, (question,), "image").image
    assert drawn is not None
    assert drawn.pixels.shape == (128, 128, 3)
    answer = ask(engine, (question, picture()), "text", "audio")
    assert answer.text
    assert answer.audio is not None


def test_tokens_do_not_depend_on_the_batch(engine: Engine) -> None:
    silence = AudioPart(np.zeros(16_000, np.float32), 16_000)
    requests = [
        GenerationRequest((TextPart("a green star"),), ("image",)),
        GenerationRequest((TextPart("where is the circle"), picture()), ("text",)),
        GenerationRequest((TextPart("two small hearts"),), ("audio",)),
        GenerationRequest((silence,), ("text",), "asr"),
    ]
    together = engine.generate(requests)
    for request, made in zip(requests, together, strict=True):
        (alone,) = engine.generate([request])
        assert alone.token_ids == made.token_ids
