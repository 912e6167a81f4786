"""The world's data is deterministic, and what it says about a picture can be read back from the picture."""

import random
from dataclasses import replace

import pytest

from unmask_training.language import all_questions, as_typed, caption, questions, words
from unmask_training.listeners import content_words, new_words, word_error_rate
from unmask_training.render import render
from unmask_training.scene_reader import names_right, read_background, same_things
from unmask_training.world import Thing, describable_scene, free_scene, place_of


def test_a_seed_fixes_scenes_captions_and_pixels() -> None:
    def world(seed: int) -> list[object]:
        rng = random.Random(seed)
        scene = describable_scene(rng)
        free = free_scene(rng)
        return [scene, caption(scene, rng), free, questions(free, rng), render(free, 128, rng).tobytes()]

    assert world(3) == world(3)
    assert world(3) != world(4)


def test_the_scene_reader_reads_plain_renderings_back() -> None:
    rng = random.Random(1)
    scenes = [describable_scene(rng) for _ in range(60)]
    assert all(same_things(s, render(s)) for s in scenes)
    assert all(read_background(render(s)) == s.background for s in scenes)


def test_the_scene_reader_refuses_what_is_wrong() -> None:
    rng = random.Random(2)
    scenes = [describable_scene(rng) for _ in range(40)]
    others = [describable_scene(rng) for _ in range(40)]
    wrong = [
        (a, b) for a, b in zip(scenes, others, strict=True) if {t.name for t in a.things} != {t.name for t in b.things}
    ]
    assert wrong
    assert not any(names_right(a, render(b)) for a, b in wrong)


def test_the_scene_reader_tells_sizes() -> None:
    rng = random.Random(3)
    scenes = [describable_scene(rng) for _ in range(60)]
    for scene in scenes:
        wrong = replace(scene, things=tuple(resized(t, len(scene.things)) for t in scene.things))
        assert same_things(wrong, render(wrong))
        assert not same_things(scene, render(wrong))
        assert names_right(scene, render(wrong))


def resized(thing: Thing, count: int) -> Thing:
    """The same thing in the other size of described pictures."""
    radii = {1: (0.145, 0.24), 2: (0.115, 0.18), 3: (0.105, 0.14)}[count]
    return (
        replace(thing, size="small", radius=radii[0])
        if thing.size == "large"
        else replace(thing, size="large", radius=radii[1])
    )


def test_answers_are_true_of_the_scene() -> None:
    rng = random.Random(5)
    for _ in range(200):
        scene = free_scene(rng)
        for kind, question, answer in questions(scene, rng):
            if kind == "color" and question != "what color is it":
                shape = question.split()[-1]
                assert [t.color for t in scene.things if t.shape == shape] == [answer]
            if kind == "place":
                shape = question.split()[-1]
                assert [place_of(t) for t in scene.things if t.shape == shape] == [answer]
            if kind == "yes_no":
                name = question.removeprefix("is there an ").removeprefix("is there a ")
                assert (answer == "yes") == (name in {t.name for t in scene.things})


def test_every_word_of_every_sentence_is_in_the_lexicon() -> None:
    rng = random.Random(6)
    known = set(words())
    for _ in range(300):
        scene = describable_scene(rng)
        said = [caption(scene, rng), *(text for q in questions(scene, rng) for text in q[1:]), *all_questions()]
        assert {w for text in said for w in text.split()} <= known
    assert set(content_words()) <= known
    assert not set(new_words()) & known


@pytest.mark.parametrize(
    ("truth", "heard", "rate"),
    [
        ("a red circle", "a red circle", 0.0),
        ("a red circle", "red circle", 1 / 3),
        ("red", "red red red", 2.0),
        ("a b", "", 1.0),
    ],
)
def test_word_error_rate(truth: str, heard: str, rate: float) -> None:
    assert word_error_rate([(truth, heard)]) == pytest.approx(rate)


def test_typing_keeps_the_words() -> None:
    rng = random.Random(7)
    for _ in range(100):
        typed = as_typed("what color is the circle", rng)
        assert typed.lower().rstrip("?").replace("colour", "color") == "what color is the circle"
