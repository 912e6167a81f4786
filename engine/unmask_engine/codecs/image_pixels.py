"""Pixels of a picture <-> the square float tensor that the image tokenizer takes and gives."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def prepare(pixels: NDArray[np.uint8], resolution: int) -> Tensor:
    """(H, W, 3) RGB -> float32 (3, R, R) in [-1, 1]: short side to R (bicubic), centre crop (reference/model.md)."""
    from PIL import Image

    image = _crop(_shrink(Image.fromarray(pixels), resolution), resolution)
    scaled = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return (scaled.contiguous() - 0.5) / 0.5


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """(..., 3, H, W) around [-1, 1] -> (..., H, W, 3) uint8; clamped, and truncated as the reference does."""
    scaled = ((images.float() + 1) / 2).clamp(0, 1) * 255
    pixels: NDArray[np.uint8] = scaled.to(torch.uint8).movedim(-3, -1).contiguous().cpu().numpy()
    return pixels


def _shrink(image: "Image", resolution: int) -> "Image":
    from PIL.Image import Resampling

    width, height = image.size
    short, long = min(width, height), max(width, height)
    longer = int(resolution * long / short)
    size = (resolution, longer) if width <= height else (longer, resolution)
    return image if size == image.size else image.resize(size, Resampling.BICUBIC)


def _crop(image: "Image", resolution: int) -> "Image":
    width, height = image.size
    left, top = round((width - resolution) / 2), round((height - resolution) / 2)
    return image.crop((left, top, left + resolution, top + resolution))
