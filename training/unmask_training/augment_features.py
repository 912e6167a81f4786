"""Filterbank rows as other speakers, rooms and microphones would have made them: for ears that must not learn voices.

A recording is stored once; each time it is seen it is faster or slower, its spectrum is stretched as by a longer or
shorter vocal tract (Jaitly and Hinton 2013), its bands are louder or softer by a smooth curve, and noise covers what is
quiet.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_engine.models.speech_frontend import NUM_MEL, STACKED, STRIDE, stack_frames

SPEED = (0.85, 1.2)
STRETCH = 0.1  # of the mel axis, both ways
TILT = 0.6  # standard deviation of each of the curve's waves, in nepers of power
NOISE = (1.0, 8.0)  # level in log power, as the features have it
NOISE_SHARE = 0.4


def unstacked(rows: Tensor) -> Tensor:
    """(R, 560) stacked rows -> (6 R, 80) frames: what `stack_frames` made them of, two repeated ones at the start."""
    middle = (STACKED - STRIDE + 1) // 2
    return rows.view(-1, STACKED, NUM_MEL)[:, middle : middle + STRIDE].reshape(-1, NUM_MEL)


def varied(rows: Tensor, generator: torch.Generator) -> Tensor:
    """(R, 560) unnormalised rows -> (R', 560): the same words said and recorded otherwise."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=generator))

    frames = unstacked(rows)
    count = max(STACKED, round(len(frames) / uniform(*SPEED)))
    frames = F.interpolate(frames.T[None], size=count, mode="linear", align_corners=True)[0].T  # (count, 80)
    frames = _stretched(frames, 1 + uniform(-STRETCH, STRETCH))
    waves = torch.arange(4)[:, None] * torch.linspace(0, torch.pi, NUM_MEL)
    frames = frames + (TILT * torch.randn(4, 1, generator=generator) * torch.cos(waves)).sum(0)
    if uniform(0, 1) < NOISE_SHARE:
        noise = uniform(*NOISE) + 0.7 * torch.randn(frames.shape, generator=generator)
        frames = torch.logaddexp(frames, noise)
    return stack_frames(frames)


def _stretched(frames: Tensor, factor: float) -> Tensor:
    """(F, 80): band k takes the value of band k * factor."""
    at = (torch.arange(NUM_MEL) * factor).clamp(max=NUM_MEL - 1)
    low = at.long().clamp(max=NUM_MEL - 2)
    part = at - low
    return frames[:, low] * (1 - part) + frames[:, low + 1] * part
