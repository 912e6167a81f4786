"""Draws a scene as pixels, with the small variations of real pictures where asked for."""

import math
import random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unmask_training.world import BACKGROUNDS, COLORS, Scene, Thing

Point = tuple[float, float]
_SUPERSAMPLING = 3


def outline(shape: str) -> list[Point]:
    """The polygon of a shape on the unit disc, y down."""
    if shape == "circle":
        return [(math.cos(a), math.sin(a)) for a in (2 * math.pi * i / 48 for i in range(48))]
    if shape == "square":
        return [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]
    if shape == "triangle":
        return [(0.0, -0.98), (0.98, 0.8), (-0.98, 0.8)]
    if shape == "diamond":
        return [(0.0, -1.05), (0.78, 0.0), (0.0, 1.05), (-0.78, 0.0)]
    if shape == "star":
        radii = (1.08, 0.43)
        return [
            (radii[i % 2] * math.sin(math.pi * i / 5), -radii[i % 2] * math.cos(math.pi * i / 5)) for i in range(10)
        ]
    if shape == "cross":
        a, b = 0.33, 0.98
        return [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
    if shape == "heart":
        points = []
        for i in range(60):
            t = 2 * math.pi * i / 60
            x = 16 * math.sin(t) ** 3
            y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
            points.append((x / 16.5, -(y + 2.5) / 15.0))
        return points
    raise ValueError(f"unknown shape {shape!r}")


def _jittered(color: tuple[int, int, int], rng: random.Random, amount: int) -> tuple[int, int, int]:
    r, g, b = (max(0, min(255, c + rng.randint(-amount, amount))) for c in color)
    return r, g, b


def _draw(canvas: ImageDraw.ImageDraw, thing: Thing, side: int, color: tuple[int, int, int], angle: float) -> None:
    cos, sin = math.cos(angle), math.sin(angle)
    points = [
        ((thing.x + thing.radius * (x * cos - y * sin)) * side, (thing.y + thing.radius * (x * sin + y * cos)) * side)
        for x, y in outline(thing.shape)
    ]
    canvas.polygon(points, fill=color)


def render(scene: Scene, side: int = 128, rng: random.Random | None = None) -> NDArray[np.uint8]:
    """A scene as (side, side, 3) RGB. With `rng`: colours, tilt and noise vary; without: exact and plain."""
    top, bottom = BACKGROUNDS[scene.background]
    if rng:
        top, bottom = _jittered(top, rng, 8), _jittered(bottom, rng, 8)
    big = side * _SUPERSAMPLING
    ramp = np.linspace(0, 1, big, dtype=np.float32)[:, None]
    column = np.asarray(top, np.float32) * (1 - ramp) + np.asarray(bottom, np.float32) * ramp
    field = np.broadcast_to(column[:, None], (big, big, 3)).round().astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(field))
    canvas = ImageDraw.Draw(image)
    for thing in scene.things:
        color = _jittered(COLORS[thing.color], rng, 14) if rng else COLORS[thing.color]
        angle = rng.uniform(-0.12, 0.12) if rng and rng.random() < 0.5 else 0.0
        _draw(canvas, thing, big, color, angle)
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BOX))
    if rng and rng.random() < 0.3:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(1, 5), pixels.shape)
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return pixels
