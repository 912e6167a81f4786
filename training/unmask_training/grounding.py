"""Teaches the backbone what it sees patch by patch, while it trains.

An answer of one word says little about sixty-four patches. So half-way up the layers, the hidden state of every image
token in the prompt also has to name the thing that covers its patch: shape, colour, place and size, and how many
things there are on which background. Only the training knows these heads; they do not ship.
"""

import torch
from torch import Tensor

from unmask_engine.models.omni import OmniModel
from unmask_training.naming import Named, NamingHead
from unmask_training.world import BACKGROUNDS, COLORS, PLACES, SHAPES, SIZES, Scene, Thing, place_of

# What is named, with the number of its classes; class 0 is a patch that no thing covers.
NAMED = {
    "shape": len(SHAPES) + 1,
    "color": len(COLORS) + 1,
    "place": len(PLACES) + 1,
    "size": len(SIZES) + 1,
    "count": 4,
    "background": len(BACKGROUNDS),
}
_MARGIN = 0.03  # of the picture's side: patches that a thing's outline touches count as its own
NOTHING_WEIGHT = 0.3  # most patches are background


def patch_labels(scene: Scene, grid: int) -> list[tuple[int, ...]]:
    """The classes of each patch in row order, one of each of `NAMED`."""
    labels, background = [], tuple(BACKGROUNDS).index(scene.background)
    for row in range(grid):
        for column in range(grid):
            x, y = (column + 0.5) / grid, (row + 0.5) / grid
            near = [t for t in scene.things if (t.x - x) ** 2 + (t.y - y) ** 2 < (t.radius + _MARGIN) ** 2]
            thing = min(near, key=lambda t: (t.x - x) ** 2 + (t.y - y) ** 2, default=None)
            classes = (0, 0, 0, 0) if thing is None else thing_classes(thing)
            labels.append((*classes, len(scene.things), background))
    return labels


def thing_classes(thing: Thing) -> tuple[int, ...]:
    return (
        SHAPES.index(thing.shape) + 1,
        tuple(COLORS).index(thing.color) + 1,
        tuple(PLACES).index(place_of(thing)) + 1,
        SIZES.index(thing.size) + 1,
    )


class Grounding(NamingHead):
    """The heads on the hidden states after `layer` of a model."""

    def __init__(self, omni: OmniModel, layer: int) -> None:
        super().__init__(omni, layer, tuple(NAMED.values()))

    def loss(self, named: Named, weights: Tensor | None = None) -> Tensor:
        """Cross-entropy of the last forward pass; 0 where nothing is labelled."""
        covered = torch.where(named.classes[:, 0] == 0, NOTHING_WEIGHT, 1.0)
        return super().loss(named, covered if weights is None else weights)
