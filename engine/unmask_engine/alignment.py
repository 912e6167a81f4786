"""When known words are said: the Viterbi path of a CTC head through a text (Graves et al., 2006).

The path emits the text's classes in order, each over one row or more, with blanks wherever it likes; between two equal
classes there must be one. Whether the times are right is a matter of how the head was trained.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unmask_engine.media import resample
from unmask_engine.request import AudioPart, Word

BLANK: Final = 0
WINDOW_S: Final = 0.025  # of the front end: a row's middle lies half of it after the row's first sample
REACH_S: Final = 0.2  # how far a word may reach into the blanks around it: CTC marks a part of a word

Text = Callable[[str], Sequence[int]]


def forced_alignment(log_probs: NDArray[np.float32], classes: Sequence[int]) -> tuple[range, ...] | None:
    """Log-probabilities (T, C), class 0 the blank -> the rows in which each of `classes` is emitted.

    None where the rows are too few for so many. Of two equally likely paths the one that moves on earlier wins.
    """
    num_rows, num_classes = log_probs.shape
    if not all(0 < index < num_classes for index in classes):
        raise ValueError(f"classes must lie between 1 and {num_classes - 1}")
    if not classes:
        return ()
    if num_rows < len(classes) + sum(left == right for left, right in pairwise(classes)):
        return None
    states = np.full(2 * len(classes) + 1, BLANK)  # blank, first class, blank, second class, ..., blank
    states[1::2] = classes
    may_skip = np.zeros(len(states), np.bool_)  # the blank before it
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    emitted = log_probs[:, states].astype(np.float64)  # (T, S)
    score = np.full(len(states), -np.inf)
    score[:2] = emitted[0, :2]
    moves = np.zeros((num_rows, len(states)), np.int8)  # how many states back the best way into each one comes from
    for row in range(1, num_rows):
        ways = np.full((3, len(states)), -np.inf)
        ways[0] = score
        ways[1, 1:] = score[:-1]
        ways[2, 2:] = np.where(may_skip[2:], score[:-2], -np.inf)
        moves[row] = ways.argmax(axis=0)
        score = ways.max(axis=0) + emitted[row]
    state = len(states) - 1 if score[-1] > score[-2] else len(states) - 2
    rows: list[list[int]] = [[] for _ in classes]
    for row in range(num_rows - 1, -1, -1):
        if state % 2:
            rows[state // 2].append(row)
        state -= int(moves[row, state])
    return tuple(range(found[-1], found[0] + 1) for found in rows)


@dataclass(frozen=True)
class WordClock:
    """Tells when the words of a text are said in a recording."""

    hear: Callable[[NDArray[np.float32]], Tensor]  # samples (T,) at `rate` -> log-probabilities (R, C); R may be 0
    encode: Text  # plain text to token ids; token i is class i + 1
    rate: int  # Hz
    row_s: float
    delay_s: float = 0.0  # seconds by which a class comes after its token is said

    def words(self, recording: AudioPart, text: str) -> tuple[Word, ...]:
        """The words of `text`, as white space divides it, in order; none where they cannot all be in the recording."""
        said = text.split()
        tokens = [self.encode(word if i == 0 else f" {word}") for i, word in enumerate(said)]
        log_probs = self.hear(resample(recording, self.rate).samples).float().cpu().numpy()
        classes = [token + 1 for ids in tokens for token in ids]
        if len(log_probs) == 0 or any(index >= log_probs.shape[1] for index in classes):
            return ()
        rows = forced_alignment(log_probs, classes)
        if not rows:
            return ()
        ends = np.cumsum([len(ids) for ids in tokens])
        spans = [(rows[end - len(ids)].start, rows[end - 1].stop) for ids, end in zip(tokens, ends, strict=True)]
        duration = len(recording.samples) / recording.sample_rate
        times = _reaching([(self._start_of(first), self._start_of(stop)) for first, stop in spans], duration)
        return tuple(Word(word, round(start, 3), round(end, 3)) for word, (start, end) in zip(said, times, strict=True))

    def _start_of(self, row: int) -> float:
        """Half way between the row's middle and that of the one before, as long before as the head is late."""
        return max(0.0, (row - 0.5) * self.row_s + WINDOW_S / 2 - self.delay_s)


def _reaching(spans: Sequence[tuple[float, float]], duration: float) -> list[tuple[float, float]]:
    """Each span takes up to half of the gap to its neighbours, `REACH_S` at most."""
    borders = [0.0, *(time for span in spans for time in span), duration]
    gaps = [(max(0.0, left), min(right, duration)) for left, right in zip(borders[::2], borders[1::2], strict=True)]
    reached = []
    for i, (start, end) in enumerate(spans):
        before, after = gaps[i][1] - gaps[i][0], gaps[i + 1][1] - gaps[i + 1][0]
        back = before if i == 0 else before / 2
        on = after if i == len(spans) - 1 else after / 2
        reached.append(
            (max(0.0, start - min(max(0.0, back), REACH_S)), min(end + min(max(0.0, on), REACH_S), duration))
        )
    return reached
