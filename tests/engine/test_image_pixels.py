"""Image preprocessing is the reference's, to the last bit."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unmask_engine.codecs.image_pixels import prepare, to_pixels

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "dream_golden.json").read_text())["imagepre"]
NAMES = [name for name in CASES if isinstance(CASES[name], dict)]


def picture(name: str) -> NDArray[np.uint8]:
    """The golden's input, by the recipe in dream_golden.json."""
    height, width = CASES[name]["h"], CASES[name]["w"]
    rng = np.random.default_rng([20240, zlib.crc32(b"imagepre"), zlib.crc32(name.encode())])
    noise = np.float32(rng.integers(0, 256, (height, width, 3), np.uint8))
    ramp = np.linspace(0, 255, width, dtype=np.float32)[None, :, None]
    return np.uint8(noise * np.float32(0.3) + np.float32(0.7) * ramp)


@pytest.mark.parametrize("name", NAMES)
def test_prepare_equals_the_reference(name: str) -> None:
    pixels = picture(name)
    assert zlib.crc32(pixels.tobytes()) == CASES[name]["input_crc32"]
    prepared = prepare(pixels, CASES[name]["resolution"])
    with np.load(GOLDEN / "dream_golden.npz") as golden:
        expected = golden[f"imagepre/{name}/u8"]
    assert prepared.dtype == torch.float32
    assert prepared.is_contiguous()
    np.testing.assert_array_equal(np.rint((prepared.numpy() * 0.5 + 0.5) * 255).astype(np.uint8), expected)
    np.testing.assert_allclose(prepared.numpy(), np.float32(expected) / 127.5 - 1, rtol=0, atol=2e-7)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (33, 7), (16, 16), (17, 16)])
def test_any_shape_becomes_the_square(height: int, width: int) -> None:
    pixels = np.full((height, width, 3), 255, np.uint8)
    assert torch.equal(prepare(pixels, 16), torch.ones(3, 16, 16))


def test_to_pixels_clamps_and_truncates() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 7.0])  # (0.999 + 1) / 2 * 255 = 254.87
    pixels = to_pixels(values.repeat(3, 1, 1))
    assert pixels.shape == (1, 6, 3)
    assert pixels[0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]


def test_to_pixels_takes_batches_and_low_precision() -> None:
    assert to_pixels(torch.zeros(2, 3, 4, 5, dtype=torch.bfloat16)).shape == (2, 4, 5, 3)


def test_pixels_survive_the_round_trip_within_truncation() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.abs(np.int16(to_pixels(prepare(ramp, 16))) - np.int16(ramp)).max() <= 1
