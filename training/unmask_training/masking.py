"""Which positions of an answer are hidden: one ratio t ~ U(0, 1) a sample, tail pads with 0.6 t.

Attenuated tail-pad masking: arXiv 2603.06577, section 3.3 and appendix A. It shows most pads wherever they are, which
tells how long the answer is; decoding starts without any, and commits them from the right. A small model takes that for
the sign of a long answer (docs/log.md), so a share of its samples shows pads as decoding does.
"""

import torch
from torch import Tensor

PAD_RATIO = 0.6


def hide(
    answer: Tensor, pads: Tensor, generator: torch.Generator, as_decoded: float = 0.0, pad_ratio: float = PAD_RATIO
) -> Tensor:
    """(B, L) bool: hidden positions, at least one a sequence. `answer` (B, L) may be hidden, `pads` are part of it.

    In a share `as_decoded` of the samples any number of pads is shown, from the right, and the others are hidden.
    """
    ratio = torch.rand(len(answer), 1, generator=generator).expand(answer.shape)
    ratio = torch.where(pads, pad_ratio * ratio, ratio)
    hidden = (torch.rand(answer.shape, generator=generator) < ratio) & answer
    if as_decoded:
        shown = (torch.rand(len(pads), 1, generator=generator) * (pads.sum(1, keepdim=True) + 1)).long()
        from_right = torch.arange(pads.shape[1] - 1, -1, -1)
        like_decoding = torch.rand(len(pads), 1, generator=generator) < as_decoded
        hidden = torch.where(like_decoding & pads, from_right >= shown, hidden)
    first = answer.int().argmax(1)
    rows = torch.arange(len(first))
    hidden[rows, first] |= ~hidden.any(1)
    return hidden
