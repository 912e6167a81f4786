"""A recording cut where its speaker pauses, so that each utterance can be heard for itself and in time with the others.

Loudness is all that is looked at. A pause is a stretch well below the loud parts; noise that is never quiet has none,
and what goes on for too long is then cut at its quietest moment.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unmask_engine.request import AudioPart

FRAMES: Final = 100  # a second
SMOOTHED_FRAMES: Final = 10  # a click is no utterance
PAUSE_S: Final = 0.7  # of silence ends an utterance: about what a full stop takes, twice what separates slow words
LONGEST_S: Final = 20.0
NOISE: Final = 4.0  # times the power of the quietest tenth, 6 dB above it: what is louder is no noise
QUIET: Final = (0.001, 0.1)  # of the loud parts' power: below the first nothing is loud, above the second all is


@dataclass(frozen=True)
class Utterance:
    """A stretch of a recording; the utterances put together are the recording."""

    audio: AudioPart
    start: float  # s; where in the recording sound begins
    end: float  # s; where it ends


def utterances(recording: AudioPart) -> tuple[Utterance, ...]:
    """At least one, none longer than `LONGEST_S`."""
    rate, samples = recording.sample_rate, recording.samples
    power = _power(recording)
    quietest, loudest = np.quantile(power, (0.1, 0.99))
    loud = power > np.clip(NOISE * quietest, QUIET[0] * loudest, QUIET[1] * loudest)
    edges = [0, *_pauses(loud), len(power)]
    cuts = [cut for first, last in pairwise(edges) for cut in (first, *_long(power, first, last))]
    found = []
    for first, last in zip(cuts, [*cuts[1:], len(power)], strict=True):
        heard = first + np.flatnonzero(loud[first:last])
        start, end = (int(heard[0]), int(heard[-1]) + 1) if len(heard) else (first, last)
        stop = len(samples) if last == len(power) else _at(last, rate)
        audio = AudioPart(samples[_at(first, rate) : stop], rate)
        found.append(Utterance(audio, round(start / FRAMES, 2), round(min(end / FRAMES, len(samples) / rate), 2)))
    return tuple(found)


def _power(recording: AudioPart) -> NDArray[np.float64]:
    """Mean square of each frame, smoothed; the last frame may be a part of one."""
    num_frames = -(-len(recording.samples) * FRAMES // recording.sample_rate)
    starts = np.arange(num_frames) * recording.sample_rate // FRAMES
    sums = np.add.reduceat(recording.samples.astype(np.float64) ** 2, starts)
    frames = sums / np.diff([*starts, len(recording.samples)])
    width = min(SMOOTHED_FRAMES, len(frames))
    return np.convolve(frames, np.full(width, 1 / width), mode="same")


def _pauses(loud: NDArray[np.bool_]) -> list[int]:
    """The middle of each pause between two loud frames."""
    at = np.flatnonzero(loud)
    after = np.flatnonzero(np.diff(at) > PAUSE_S * FRAMES)
    return [int(at[i] + at[i + 1]) // 2 for i in after]


def _long(power: NDArray[np.float64], first: int, last: int) -> list[int]:
    """Where to cut what is longer than allowed: at the quietest frame of the second half of each allowed length."""
    longest = int(LONGEST_S * FRAMES)
    cuts = []
    while last - first > longest:
        middle = first + longest // 2
        first = middle + int(power[middle : first + longest].argmin())
        cuts.append(first)
    return cuts


def _at(frame: int, rate: int) -> int:
    return frame * rate // FRAMES
