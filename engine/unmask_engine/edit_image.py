"""A part of a picture drawn anew: the tokens that a mask touches. The picture's centre square is what is tokenised."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from unmask_engine.canvas import Canvas, Paste, pinned
from unmask_engine.codecs.image_pixels import prepare
from unmask_engine.edit_paste import centre_square, pasted
from unmask_engine.loaded import LoadedBundle
from unmask_engine.request import Generation, ImagePart, RequestError


def edit_image(bundle: LoadedBundle, target: ImagePart, mask: NDArray[np.bool_]) -> tuple[Canvas, Paste]:
    """`mask` (H, W) is True where the picture is to be drawn anew."""
    height, width = target.pixels.shape[:2]
    if mask.shape != (height, width):
        found, wanted = f"{mask.shape[1]} x {mask.shape[0]}", f"{width} x {height}"
        raise _bad_mask(f"the mask is {found} pixels, the target {wanted}; make them equal")
    square = centre_square(height, width)
    inside = mask[square]
    side = len(inside)
    if not mask.any():
        raise _bad_mask("no pixel of the mask is transparent, so there is nothing to draw")
    if np.count_nonzero(inside) != np.count_nonzero(mask):
        message = f"the mask reaches outside of the target's centre square of {side} x {side} pixels; crop the target"
        raise _bad_mask(message)
    ids = [bundle.vocabulary.image[code] for code in _encode(bundle, target.pixels[square])]
    is_open = touched(inside, bundle.image_grid).flatten()
    body = [bundle.vocabulary.mask if masked else token for masked, token in zip(is_open, ids, strict=True)]

    def paste(generation: Generation) -> Generation:
        if generation.image is None:
            return generation
        return replace(generation, image=pasted(target, mask, generation.image))

    vocabulary = bundle.vocabulary
    after = ("end_of_image", "im_end", "newline")
    return pinned(vocabulary, ("begin_of_image",), body, after, vocabulary.image_span), paste


def touched(mask: NDArray[np.bool_], grid: int) -> NDArray[np.bool_]:
    """Mask (S, S) -> (grid, grid): the cells that share any area with a pixel that is True."""
    side = len(mask)
    cells = [slice(i * side // grid, -(-(i + 1) * side // grid)) for i in range(grid)]
    return np.array([[mask[rows, columns].any() for columns in cells] for rows in cells])


@torch.inference_mode()
def _encode(bundle: LoadedBundle, pixels: NDArray[np.uint8]) -> list[int]:
    assert bundle.image_codec is not None  # prompt.py has checked
    image = prepare(pixels, bundle.image_output_size).unsqueeze(0).to(bundle.device)
    codes: list[int] = bundle.image_codec.encode(image).flatten().tolist()
    return codes


def _bad_mask(message: str) -> RequestError:
    return RequestError(message, param="edit.mask", code="mask_invalid")
