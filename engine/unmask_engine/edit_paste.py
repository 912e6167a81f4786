"""What was drawn, put into the picture that was given: outside of the mask that stays as it was."""

import numpy as np
from numpy.typing import NDArray

from unmask_engine.request import Edit, ImagePart


def centre_square(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of what is drawn anew of a picture: the largest square in its middle."""
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)


def pasted(target: ImagePart, mask: NDArray[np.bool_], drawn: ImagePart) -> ImagePart:
    """`drawn` shows the target's centre square, in any size; `mask` (H, W) is True where it takes the place."""
    square = centre_square(*mask.shape)
    inside, pixels = mask[square], target.pixels.copy()
    pixels[square][inside] = _resized(drawn.pixels, len(inside))[inside]
    return ImagePart(pixels)


def in_place(edit: Edit | None, drawn: ImagePart) -> ImagePart:
    """A preview as the answer of an edit will be; without an edit it is the picture itself."""
    if edit is None:
        return drawn
    assert isinstance(edit.target, ImagePart)  # else nothing is drawn
    assert edit.mask is not None  # a picture needs one
    return pasted(edit.target, edit.mask, drawn)


def _resized(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
