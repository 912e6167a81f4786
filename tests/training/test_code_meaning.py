"""The first bits of an image code: what they shall say of a scene, and what it costs to say something else."""

import random

import pytest
import torch

from unmask_training.code_meaning import CELLS, NAMING_BITS, label_map, meaning_loss, wanted_bits
from unmask_training.world import COLORS, SHAPES, Scene, Thing, free_scene

STAR = Scene((Thing("star", "blue", "large", 0.25, 0.75, 0.2),), "white", "free")


def test_the_map_names_what_covers_a_cell() -> None:
    labels = label_map(STAR)
    assert labels.shape == (2, CELLS, CELLS)
    assert labels.dtype == torch.uint8
    y, x = int(0.75 * CELLS), int(0.25 * CELLS)
    assert labels[:, y, x].tolist() == [1 + SHAPES.index("star"), 1 + tuple(COLORS).index("blue")]
    assert labels[:, 2, CELLS - 2].tolist() == [0, 0]
    assert torch.equal(labels[0] > 0, labels[1] > 0)


def test_three_bits_spell_a_shape_and_three_a_colour() -> None:
    assert len(SHAPES) < 2**NAMING_BITS >= len(COLORS)
    shape, color = 5, 8
    bits, weight = wanted_bits(torch.tensor([shape, color]).view(1, 2, 1, 1))
    assert bits.flatten().tolist() == [1, 0, 1, 1, 1, 1]  # 5, and the eighth colour as 7
    assert weight.flatten().tolist() == [1] * 6
    bits, weight = wanted_bits(torch.zeros(1, 2, 1, 1, dtype=torch.uint8))
    assert bits.flatten().tolist() == [0] * 6
    assert weight.flatten()[NAMING_BITS:].tolist() == [0] * NAMING_BITS  # nothing has no colour
    assert 0 < float(weight.flatten()[0]) < 1


def test_right_bits_cost_nothing_and_the_other_bits_are_free() -> None:
    rng = random.Random(0)
    labels = torch.stack([label_map(free_scene(rng)) for _ in range(3)])
    wanted, _ = wanted_bits(labels)
    free = torch.randn(3, 6, CELLS, CELLS)
    right = torch.cat([20 * (2 * wanted - 1), free], 1)
    loss, told = meaning_loss(right, labels)
    assert float(loss) == pytest.approx(0.0, abs=1e-6)
    assert told == 1.0
    other, _ = meaning_loss(torch.cat([20 * (2 * wanted - 1), -free], 1), labels)
    assert torch.equal(loss, other)
    wrong, told = meaning_loss(-right, labels)
    assert float(wrong) > 10
    assert told == 0.0


def test_only_the_first_bits_get_gradients() -> None:
    latent = torch.zeros(1, 12, CELLS, CELLS, requires_grad=True)
    loss, _ = meaning_loss(latent, label_map(STAR)[None])
    loss.backward()
    assert latent.grad is not None
    named = latent.grad[:, : 2 * NAMING_BITS]
    assert named.abs().sum() > 0
    assert not latent.grad[:, 2 * NAMING_BITS :].any()
