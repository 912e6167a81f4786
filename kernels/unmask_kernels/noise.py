"""Counter-based noise: a draw depends on (seed, stream, step, position, index) and on nothing else.

A generator with a state would tie a request's tokens to what else is in its batch. The counter words go one by one
through the 32-bit finaliser of MurmurHash3 (public domain, A. Appleby), which a Triton kernel can do as well.
"""

from typing import Final

import torch
from torch import Tensor

TOKEN_STREAM: Final = 0  # which token a row takes
REVEAL_STREAM: Final = 1  # which rows are committed
_WORD: Final = 0xFFFFFFFF


def uniform(seed: Tensor, stream: int, step: Tensor, position: Tensor, index: Tensor | None = None) -> Tensor:
    """float32 in (0, 1), never 0 or 1: seed, step, position (R,) int64 -> (R,), or (R, W) with index (R, W) int64."""
    state = _mix(_mix(torch.full_like(seed, stream) ^ (seed & _WORD)) ^ (seed >> 32 & _WORD))
    state = _mix(_mix(state ^ (step & _WORD)) ^ (position & _WORD))
    if index is not None:
        state = _mix(state.unsqueeze(-1) ^ (index & _WORD))
    return ((state >> 9).float() + 0.5) * 2.0**-23  # 23 bits, or the half would round up to 1


def gumbel(uniform_draws: Tensor) -> Tensor:
    """Standard Gumbel noise of uniform draws: argmax(z + gumbel) is a sample of softmax(z)."""
    return -torch.log(-torch.log(uniform_draws))


def _mix(word: Tensor) -> Tensor:
    """One round of a non-linear bijection of 32-bit words held in int64; products wrap, their low 32 bits are right."""
    word = (word + 0x9E3779B9) & _WORD
    word = ((word ^ (word >> 16)) * 0x85EBCA6B) & _WORD
    word = ((word ^ (word >> 13)) * 0xC2B2AE35) & _WORD
    return word ^ (word >> 16)
