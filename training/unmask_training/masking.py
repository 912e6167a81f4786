"""Which positions of an answer are hidden: one ratio t ~ U(0, 1) a sample, tail pads with 0.6 t.

Attenuated tail-pad masking: arXiv 2603.06577, section 3.3 and appendix A.
"""

import torch
from torch import Tensor

PAD_RATIO = 0.6


def hide(answer: Tensor, pads: Tensor, generator: torch.Generator) -> Tensor:
    """(B, L) bool: hidden positions, at least one a sequence. `answer` (B, L) may be hidden, `pads` are part of it."""
    ratio = torch.rand(len(answer), 1, generator=generator).expand(answer.shape)
    ratio = torch.where(pads, PAD_RATIO * ratio, ratio)
    hidden = (torch.rand(answer.shape, generator=generator) < ratio) & answer
    first = answer.int().argmax(1)
    rows = torch.arange(len(first))
    hidden[rows, first] |= ~hidden.any(1)
    return hidden
