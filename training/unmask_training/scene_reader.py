"""Reads a picture back by plain image processing, without any model: the judge of drawn images.

Background by row from the border, connected components of what differs, colour by nearest palette entry, shape by
the overlap with each outline stretched to the component's box.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unmask_training.render import outline
from unmask_training.world import BACKGROUNDS, COLORS, SHAPES, Scene

_MIN_AREA = 0.004  # of the picture; smaller specks are not things
_CONTRAST = 55.0  # RGB distance from the background
_FAR = 0.15  # of the side: farther away a thing is not where it should be
# Between the radii of a small and of a large thing, by how many things a described picture has; and in a free one.
_LARGE_FROM = {1: 0.1925, 2: 0.1475, 3: 0.1225}
_LARGE_FROM_FREE = 0.16


@dataclass(frozen=True)
class Found:
    shape: str
    color: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


def read_scene(pixels: NDArray[np.uint8]) -> list[Found]:
    """The things in a (H, W, 3) picture, largest first. x, y, radius are fractions of the side."""
    from scipy import ndimage

    side = pixels.shape[0]
    image = pixels.astype(np.float32)
    border = np.concatenate([image[:, :3], image[:, -3:]], axis=1)
    background = np.median(border, axis=1, keepdims=True)
    different = np.linalg.norm(image - background, axis=2) > _CONTRAST
    labels, count = ndimage.label(ndimage.binary_opening(different, iterations=1))
    found = []
    for i in range(1, count + 1):
        mask = labels == i
        if mask.mean() < _MIN_AREA:
            continue
        ys, xs = np.nonzero(mask)
        box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        core = ndimage.binary_erosion(mask, iterations=2)
        color = np.median(image[core if core.sum() > 8 else mask], axis=0)
        centre = ((box[0] + box[2]) / 2 / side, (box[1] + box[3]) / 2 / side)
        radius = max(box[2] - box[0], box[3] - box[1]) / 2 / side
        found.append(Found(_shape(mask[box[1] : box[3], box[0] : box[2]]), _nearest(color), *centre, radius))
    return sorted(found, key=lambda f: -f.radius)


def read_background(pixels: NDArray[np.uint8]) -> str:
    top, bottom = (np.median(pixels[rows].reshape(-1, 3), axis=0) for rows in (slice(0, 4), slice(-4, None)))
    return min(
        BACKGROUNDS,
        key=lambda b: float(np.linalg.norm(top - BACKGROUNDS[b][0]) + np.linalg.norm(bottom - BACKGROUNDS[b][1])),
    )


def _nearest(color: NDArray[np.float32]) -> str:
    return min(COLORS, key=lambda c: float(np.linalg.norm(color - np.asarray(COLORS[c]))))


def _shape(mask: NDArray[np.bool_]) -> str:
    def overlap(shape: str) -> float:
        template = _template(shape, mask.shape[1], mask.shape[0])
        return float((mask & template).sum() / max(1, (mask | template).sum()))

    return max(SHAPES, key=overlap)


def _template(shape: str, width: int, height: int) -> NDArray[np.bool_]:
    points = np.asarray(outline(shape))
    low, high = points.min(0), points.max(0)
    scaled = (points - low) / (high - low) * (4 * width, 4 * height)
    image = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in scaled], fill=255)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX)) > 127


@lru_cache
def _extent(shape: str) -> float:
    """Half of the longer side of a shape's box, of one with radius 1."""
    points = np.asarray(outline(shape))
    return float((points.max(0) - points.min(0)).max() / 2)


def size_of(found: Found, scene: Scene) -> str:
    """Whether a thing that was found is a small or a large one, in a picture of that scene."""
    border = _LARGE_FROM_FREE if scene.layout == "free" else _LARGE_FROM[len(scene.things)]
    return "large" if found.radius / _extent(found.shape) > border else "small"


def same_things(scene: Scene, pixels: NDArray[np.uint8]) -> bool:
    """Right number of things, each with its colour, shape and size near where the caption puts it."""
    found = read_scene(pixels)
    if len(found) != len(scene.things):
        return False
    return all(
        any(
            f.name == t.name and size_of(f, scene) == t.size and abs(f.x - t.x) < _FAR and abs(f.y - t.y) < _FAR
            for f in found
        )
        for t in scene.things
    )


def names_right(scene: Scene, pixels: NDArray[np.uint8]) -> bool:
    """The multiset of colours and shapes is right, wherever they are."""
    return sorted(f.name for f in read_scene(pixels)) == sorted(t.name for t in scene.things)
