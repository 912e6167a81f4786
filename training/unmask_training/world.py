"""The small world that unmask-mini lives in: what can be in a picture, and how people speak about it.

A `Scene` is pure data; `render.py` draws it, `language.py` describes it and asks about it. Everything is a
function of a `random.Random`, so a seed fixes a data set.
"""

import random
from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "heart")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (44, 160, 60),
    "blue": (38, 84, 214),
    "yellow": (248, 216, 40),
    "orange": (245, 134, 22),
    "purple": (128, 48, 176),
    "pink": (250, 150, 190),
    "brown": (122, 74, 40),
}
BACKGROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {  # top and bottom of the gradient
    "white": ((255, 255, 255), (255, 255, 255)),
    "gray": ((168, 168, 168), (168, 168, 168)),
    "black": ((16, 16, 16), (16, 16, 16)),
    "sky": ((138, 196, 246), (212, 234, 250)),
    "sand": ((236, 214, 170), (222, 196, 146)),
}
SIZES = ("small", "large")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# Nine places of a single object; the centre is the default and is not mentioned in captions.
PLACES: dict[str, tuple[float, float]] = {
    "top left": (0.27, 0.27), "top": (0.5, 0.27), "top right": (0.73, 0.27),
    "left": (0.27, 0.5), "center": (0.5, 0.5), "right": (0.73, 0.5),
    "bottom left": (0.27, 0.73), "bottom": (0.5, 0.73), "bottom right": (0.73, 0.73),
}  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below")


@dataclass(frozen=True)
class Thing:
    """One object; centre and radius as fractions of the picture's side."""

    shape: str
    color: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One to three things on a background. `layout` is 'place', a relation, 'row', 'column' or 'free'."""

    things: tuple[Thing, ...]
    background: str
    layout: str
    place: str = "center"


# Radius of a small and a large thing by the number of things in the picture: three in a line must not touch.
_RADII = {1: {"small": 0.145, "large": 0.24}, 2: {"small": 0.115, "large": 0.18}, 3: {"small": 0.105, "large": 0.14}}


def _thing(rng: random.Random, x: float, y: float, count: int, size: str) -> Thing:
    return Thing(rng.choice(SHAPES), rng.choice(tuple(COLORS)), size, x, y, _RADII[count][size])


def _background(rng: random.Random) -> str:
    return "white" if rng.random() < 0.4 else rng.choice(tuple(BACKGROUNDS))


def _distinct(things: list[Thing]) -> bool:
    return len({t.name for t in things}) == len(things)


def describable_scene(rng: random.Random) -> Scene:
    """A scene that its caption fixes exactly, to the pixel: used for text -> image and speech -> image.

    One picture a caption: a model of this size spends its few parameters on what is asked, not on what is free.
    """
    background = _background(rng)
    kind = rng.random()
    if kind < 0.5:
        place = "center" if rng.random() < 0.6 else rng.choice(tuple(PLACES))
        size = "large" if rng.random() < 0.6 else "small"
        x, y = PLACES[place]
        return Scene((_thing(rng, x, y, 1, size),), background, "place", place)
    while True:
        if kind < 0.85:
            layout = rng.choice(RELATIONS)
            first, second = {
                "left of": ((0.29, 0.5), (0.71, 0.5)),
                "right of": ((0.71, 0.5), (0.29, 0.5)),
                "above": ((0.5, 0.29), (0.5, 0.71)),
                "below": ((0.5, 0.71), (0.5, 0.29)),
            }[layout]
            spots = [first, second]
        else:
            layout = rng.choice(("row", "column"))
            line = (0.19, 0.5, 0.81)
            spots = [(a, 0.5) for a in line] if layout == "row" else [(0.5, a) for a in line]
        things = [_thing(rng, x, y, len(spots), "large" if rng.random() < 0.7 else "small") for x, y in spots]
        if _distinct(things):
            return Scene(tuple(things), background, layout)


def free_scene(rng: random.Random) -> Scene:
    """Things anywhere, any radius, not touching: pictures as people bring them, used for questions."""
    background = _background(rng)
    count = rng.choice((1, 1, 2, 2, 3))
    while True:
        things: list[Thing] = []
        for _ in range(count):
            size = rng.choice(SIZES)
            low, high = ((0.08, 0.15), (0.17, 0.30 if count == 1 else 0.2))[SIZES.index(size)]
            radius = rng.uniform(low, high)
            x, y = (rng.uniform(radius + 0.02, 0.98 - radius) for _ in range(2))
            things.append(Thing(rng.choice(SHAPES), rng.choice(tuple(COLORS)), size, x, y, radius))
        apart = all(
            (a.x - b.x) ** 2 + (a.y - b.y) ** 2 > (1.05 * (a.radius + b.radius)) ** 2
            for i, a in enumerate(things)
            for b in things[:i]
        )
        if apart and _distinct(things):
            return Scene(tuple(things), background, "free")


def place_of(thing: Thing) -> str:
    """The place word whose cell of the 3 x 3 grid holds the thing's centre."""
    column = 0 if thing.x < 0.39 else 2 if thing.x > 0.61 else 1
    row = 0 if thing.y < 0.39 else 2 if thing.y > 0.61 else 1
    return tuple(PLACES)[3 * row + column]


def relation_holds(a: Thing, relation: str, b: Thing) -> bool:
    """Whether `a` is clearly in that relation to `b`: more along its axis than across it."""
    dx, dy = a.x - b.x, a.y - b.y
    if relation in ("left of", "right of"):
        return abs(dx) > abs(dy) * 1.2 and (dx < 0) == (relation == "left of")
    return abs(dy) > abs(dx) * 1.2 and (dy < 0) == (relation == "above")
