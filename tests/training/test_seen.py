"""What training saw is known again from its seed, and is not asked in an examination."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from unmask_engine.bundle import load_bundle
from unmask_engine.engine import Engine
from unmask_training import corpus, publish, seen
from unmask_training.evaluate_pictures import by_kind
from unmask_training.examiner import Examiner, NothingNewError, held_out, says_its_text, share
from unmask_training.language import caption
from unmask_training.pools import scenes
from unmask_training.voices import Delivery
from unmask_training.world import Scene, describable_scene

SIZES = {"captions": 20, "takes": 1, "talk_takes": 1, "others": 20, "apart": 10, "own": 5, "speaking": 6}
SIZES |= {"drawn": 30, "seen": 5}
RECIPE = {"seed": 3, "data": SIZES}


def _silence(texts: list[str], deliveries: list[Delivery], rate: int) -> list[np.ndarray]:
    return [np.zeros(8, np.int16) for _ in texts]


def test_the_script_is_what_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"a": np.zeros(8, np.float32)}
    monkeypatch.setattr(corpus, "record_all", _silence)
    monkeypatch.setattr(corpus, "record_apart", lambda *_: np.zeros(8, np.float32))
    monkeypatch.setattr(corpus, "word_recordings", lambda rate: dict.fromkeys(corpus.words(), said["a"]))
    sizes = [SIZES[kind] for kind in seen.KINDS]
    assert tuple(corpus.listening_script(3, *sizes)) == corpus.listening(3, *sizes).said
    assert tuple(corpus.speaking_script(2, 6)) == corpus.speaking(2, 6).said


def test_all_that_was_drawn_or_said_is_seen_however_it_is_put() -> None:
    found = seen.seen_in(RECIPE)
    drawn, _ = scenes(4, SIZES["drawn"], 0)
    assert all(found.has_drawn(scene) for scene in drawn)
    mirrored = next(s for s in drawn if len(s.things) == 2)
    assert found.has_drawn(Scene(mirrored.things[::-1], mirrored.background, "left of"))
    other = Scene(mirrored.things, "black" if mirrored.background != "black" else "sky", mirrored.layout)
    assert not found.has_drawn(other)
    assert "what color is the background" in found.sentences
    rng = random.Random(3)
    scene = describable_scene(rng)
    assert caption(scene, rng) in found.sentences


def test_a_bundle_tells_its_recipe(tmp_path: Path) -> None:
    (installed,) = seen.recipes_of(tmp_path)
    assert installed["data"].keys() >= set(seen.KINDS)  # that of mini.toml
    (tmp_path / seen.RECORD).write_text(json.dumps({"seed": 3, "config": RECIPE}))
    assert seen.recipes_of(tmp_path) == [RECIPE]


def test_a_bundle_has_seen_what_the_one_saw_that_it_began_from(tmp_path: Path) -> None:
    start = tmp_path / seen.START_RECORD
    start.write_text(json.dumps({"seed": 5, "config": RECIPE | {"seed": 5}}))
    publish.write_record(tmp_path, RECIPE, None, 1.0, start)
    found, alone, before = seen.seen_by(tmp_path), seen.seen_in(RECIPE), seen.seen_in(RECIPE | {"seed": 5})
    assert found.pictures == alone.pictures | before.pictures != alone.pictures
    assert found.sentences == alone.sentences | before.sentences != alone.sentences


def test_scenes_of_an_examination_are_new(tiny_bundle: Path) -> None:
    known = seen.seen_in(RECIPE | {"data": SIZES | {"drawn": 3000}})
    examiner = Examiner(Engine.load(tiny_bundle), load_bundle(tiny_bundle), 40, 0, seen=known)
    for single in (True, False):
        found = examiner.scenes("t2i", single)
        assert len(found) == 40
        assert not any(known.has_drawn(scene) for scene in found)
        assert all((len(scene.things) == 1) == single for scene in found)


def test_an_examination_of_nothing_new_ends() -> None:
    with pytest.raises(NothingNewError):
        held_out(lambda: 1, lambda made: made > 1, 2)


def test_questions_are_counted_by_kind() -> None:
    found = by_kind("q", ["color", "yes_no", "color", "size"], [True, False, False, True])
    assert found == {"q, colour": (0.5, 2), "q, yes/no": (0.0, 1), "q, size": (1.0, 1)}
    assert share([True, False]) == (0.5, 2)


def test_speech_that_says_something_else_is_found_out(tiny_bundle: Path) -> None:
    examiner = Examiner(Engine.load(tiny_bundle), load_bundle(tiny_bundle), 1, 0, seen=seen.Seen())
    assert says_its_text(examiner, []).samples == 0
