"""Captions, questions with their answers, and small talk about the world of `world.py`.

Written and spoken input share these sentences. Answers are short, lower case, without punctuation, so that they
can be spoken word by word.
"""

import random
from functools import cache

from unmask_training.small_talk import by_answer
from unmask_training.world import (
    BACKGROUNDS,
    COLORS,
    NUMBERS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    place_of,
    relation_holds,
)

SMALL_TALK: dict[str, tuple[str, ...]] = by_answer(trained=True)  # answer -> ways of asking
IMAGE_REQUESTS = ("describe the image", "what is in the picture", "what do you see", "describe the picture")


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _named(thing: Thing, with_size: bool) -> str:
    return _article(f"{thing.size} {thing.name}" if with_size else thing.name)


def caption(scene: Scene, rng: random.Random) -> str:
    """A caption that says everything needed to draw a describable scene.

    A single object is large unless its size is said, things in groups say theirs when small; the background is
    white unless it is said. So what is left out has one meaning.
    """
    if scene.layout == "place":
        (thing,) = scene.things
        text = _named(thing, thing.size == "small" or rng.random() < 0.3)
        if scene.place != "center":
            text += f" in the {scene.place}"
        elif rng.random() < 0.1:
            text += " in the center"
    else:
        names = [_named(t, t.size == "small" or rng.random() < 0.1) for t in scene.things]
        if scene.layout in RELATIONS:
            text = f"{names[0]} {scene.layout} {names[1]}"
        else:
            text = f"{names[0]} {names[1]} and {names[2]} in a {scene.layout}"
    if scene.background != "white" or rng.random() < 0.1:
        text += f" on a {scene.background} background"
    return text


def description(scene: Scene) -> str:
    """The caption answered to 'describe the image': names only, sizes and background left out."""
    names = [_article(t.name) for t in scene.things]
    if len(names) == 1:
        return names[0]
    return " ".join(names[:-1]) + " and " + names[-1]


def _unique(things: tuple[Thing, ...], attribute: str) -> list[Thing]:
    values = [getattr(t, attribute) for t in things]
    return [t for t in things if values.count(getattr(t, attribute)) == 1]


def questions(scene: Scene, rng: random.Random) -> list[tuple[str, str, str]]:
    """Every kind of question that this scene answers: (kind, question, answer), in random order."""
    things = scene.things
    asked: list[tuple[str, str, str]] = []
    for t in _unique(things, "shape"):
        asked.append(("color", f"what color is the {t.shape}", t.color))
        asked.append(("place", f"where is the {t.shape}", place_of(t)))
        if len(things) == 1:
            asked.append(("size", f"how big is the {t.shape}", t.size))
    for t in _unique(things, "color"):
        asked.append(("shape", rng.choice((f"what shape is {t.color}", f"what is {t.color}")), t.shape))
    if len(things) == 1:
        asked.append(("shape", "what shape is it", things[0].shape))
        asked.append(("color", "what color is it", things[0].color))
    asked.append(
        ("count", rng.choice(("how many shapes are there", "how many objects do you see")), NUMBERS[len(things)])
    )
    present = rng.choice(things)
    asked.append(("yes_no", f"is there {_article(present.name)}", "yes"))
    decoy = (rng.choice(tuple(COLORS)), rng.choice(SHAPES))
    if rng.random() < 0.5:
        decoy = (decoy[0], present.shape) if rng.random() < 0.5 else (present.color, decoy[1])
    if all(t.name != " ".join(decoy) for t in things):
        asked.append(("yes_no", f"is there {_article(' '.join(decoy))}", "no"))
    asked.append(("background", "what color is the background", scene.background))
    if len(things) == 2:
        for a, b in (things, things[::-1]):
            if a.shape != b.shape:
                for relation in RELATIONS:
                    if relation_holds(a, relation, b):
                        asked.append(("relation", f"what is {relation} the {b.shape}", _article(a.name)))
    asked.append(("describe", rng.choice(IMAGE_REQUESTS), _reading_order(scene)))
    rng.shuffle(asked)
    return asked


def _reading_order(scene: Scene) -> str:
    """The description with things ordered left to right, so that the answer is a function of the picture."""
    ordered = sorted(scene.things, key=lambda t: (round(t.x / 0.12), t.y))
    return description(Scene(tuple(ordered), scene.background, scene.layout, scene.place))


def all_questions() -> list[str]:
    """Every distinct question about a picture, for recording them."""
    asked = [f"what color is the {s}" for s in SHAPES] + [f"where is the {s}" for s in SHAPES]
    asked += [f"how big is the {s}" for s in SHAPES] + [f"what shape is {c}" for c in COLORS]
    asked += [f"what is {c}" for c in COLORS] + ["what shape is it", "what color is it", "what color is the background"]
    asked += ["how many shapes are there", "how many objects do you see", *IMAGE_REQUESTS]
    asked += [f"is there {_article(f'{c} {s}')}" for c in COLORS for s in SHAPES]
    return asked + [f"what is {r} the {s}" for r in RELATIONS for s in SHAPES]


@cache
def words() -> tuple[str, ...]:
    """Every word that the world speaks, sorted: the lexicon of the speaking voice."""
    texts = [*SMALL_TALK, *(q for asked in SMALL_TALK.values() for q in asked), *all_questions()]
    texts += [*SHAPES, *COLORS, *BACKGROUNDS, *SIZES, *NUMBERS, *RELATIONS]
    texts += ["a an and in the row column on background center top bottom left right yes no please draw show me"]
    return tuple(sorted({w for text in texts for w in text.split()}))


def word_salad(rng: random.Random, low: int = 2, high: int = 7) -> str:
    """Words in any order: teaches listening and speaking that do not lean on grammar."""
    lexicon = words()
    return " ".join(rng.choice(lexicon) for _ in range(rng.randint(low, high)))


def sentence(rng: random.Random, scene: Scene) -> str:
    """Any sentence of the world, for recognition and synthesis."""
    kind = rng.random()
    if kind < 0.4:
        return caption(scene, rng) if scene.layout != "free" else description(scene)
    if kind < 0.6:
        return rng.choice(questions(scene, rng))[1]
    if kind < 0.7:
        answer = rng.choice(tuple(SMALL_TALK))
        return rng.choice((answer, *SMALL_TALK[answer]))
    if kind < 0.8:
        return rng.choice(questions(scene, rng))[2]
    return word_salad(rng)


def as_typed(text: str, rng: random.Random) -> str:
    """The text as people type it: sometimes capitalised, with punctuation, or with British spelling."""
    question = text.split()[0] in ("what", "where", "how", "is", "who")
    if rng.random() < 0.15:
        text = text.replace("color", "colour")
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.5:
        text += "?" if question else "."
    return text
