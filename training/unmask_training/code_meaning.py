"""Gives the first bits of an image code a meaning, while the image tokenizer trains: what covers the patch.

Pixels alone make codes of textures: which shape an edge belongs to is spread over the picture, and a small backbone
needs long to gather it. So three bits of every patch name the shape of the thing that covers it (none is one of
eight), and where there is a thing the next three name its colour. The other bits are free, for geometry and
backgrounds. Reading a picture and drawing one then begin with codes that say what they show.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_training.grounding import NAMED, NOTHING_WEIGHT, patch_labels
from unmask_training.world import Scene

CELLS = 32  # a side of the map of labels: crops begin at a cell
NAMING_BITS = 3  # for each of shape and colour
_TOLD = ("shape", "color")


def label_map(scene: Scene) -> Tensor:
    """(2, CELLS, CELLS) uint8: classes of shape and colour of what covers each cell, 0 for nothing."""
    columns = [tuple(NAMED).index(name) for name in _TOLD]
    labels = torch.tensor(patch_labels(scene, CELLS), dtype=torch.uint8)[:, columns]
    return labels.T.reshape(len(_TOLD), CELLS, CELLS)


def wanted_bits(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (B, 2, h, w) -> the first bits (B, 6, h, w) as 0 and 1, and how much each counts."""
    shape, color = labels.long().unbind(1)
    powers = torch.arange(NAMING_BITS - 1, -1, -1, device=labels.device)[:, None, None]
    numbers = torch.cat([shape[:, None] >> powers, (color - 1).clamp(min=0)[:, None] >> powers], 1)
    thing = (shape > 0)[:, None].float().expand(-1, NAMING_BITS, -1, -1)
    return (numbers & 1).float(), torch.cat([thing + (1 - thing) * NOTHING_WEIGHT, thing], 1)


def meaning_loss(latent: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Cross-entropy of the first bits of a latent (B, num_bits, h, w), and the share of things with the right shape."""
    wanted, weight = wanted_bits(labels)
    named = latent[:, : wanted.shape[1]]
    losses = F.binary_cross_entropy_with_logits(2 * named, wanted, reduction="none")
    right = ((named > 0) == (wanted > 0))[:, :NAMING_BITS].all(1)
    things = labels[:, 0] > 0
    return (losses * weight).sum() / weight.sum().clamp(min=1), float(right[things].float().mean())
