"""Teaches the backbone what it sees patch by patch, while it trains.

An answer of one word says little about sixty-four patches. So half-way up the layers, the hidden state of every image
token in the prompt also has to name the shape and the colour of the thing that covers its patch. Only the training
knows this head; it does not ship.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask_engine.models.omni import OmniModel
from unmask_training.world import COLORS, SHAPES, Scene

NOTHING = 0  # class of a patch that no thing covers
IGNORED = -1  # label of what is no image token, or a picture without a known scene
_MARGIN = 0.03  # of the picture's side: patches that a thing's outline touches count as its own
_NOTHING_WEIGHT = 0.3  # most patches are background


def patch_labels(scene: Scene, grid: int) -> list[int]:
    """Shape class and colour class of each patch in row order, as one number: shape * (colours + 1) + colour."""
    labels = []
    for row in range(grid):
        for column in range(grid):
            x, y = (column + 0.5) / grid, (row + 0.5) / grid
            near = [t for t in scene.things if (t.x - x) ** 2 + (t.y - y) ** 2 < (t.radius + _MARGIN) ** 2]
            thing = min(near, key=lambda t: (t.x - x) ** 2 + (t.y - y) ** 2, default=None)
            if thing is None:
                labels.append(NOTHING)
            else:
                shape, color = SHAPES.index(thing.shape) + 1, list(COLORS).index(thing.color) + 1
                labels.append(shape * (len(COLORS) + 1) + color)
    return labels


class Grounding(nn.Module):
    """The head on the hidden states after `layer` of a model."""

    def __init__(self, omni: OmniModel, layer: int) -> None:
        super().__init__()
        hidden = omni.lm_head.in_features
        self.norm = nn.LayerNorm(hidden)
        self.shape = nn.Linear(hidden, len(SHAPES) + 1)
        self.color = nn.Linear(hidden, len(COLORS) + 1)
        self._seen: Tensor | None = None
        omni.model.layers[layer].register_forward_hook(self._note)

    def loss(self, labels: Tensor) -> Tensor:
        """Cross-entropy of the last forward pass for labels (T,) of its packed rows; 0 where none is known."""
        assert self._seen is not None  # a forward pass came before
        rows = (labels != IGNORED).nonzero()[:, 0]
        if not len(rows):
            return self._seen.new_zeros(())
        hidden = self.norm(self._seen[rows].float())
        shape, color = labels[rows] // (len(COLORS) + 1), labels[rows] % (len(COLORS) + 1)
        weight = torch.where(labels[rows] == NOTHING, _NOTHING_WEIGHT, 1.0)
        total = F.cross_entropy(self.shape(hidden), shape, reduction="none") + F.cross_entropy(
            self.color(hidden), color, reduction="none"
        )
        return (total * weight).sum() / weight.sum()

    def _note(self, module: nn.Module, inputs: tuple[object, ...], output: Tensor) -> None:
        self._seen = output
