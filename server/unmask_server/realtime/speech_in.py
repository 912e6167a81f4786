"""The input audio buffer: what the user has said and nobody has answered yet, on the session's clock."""

from typing import Final

import numpy as np

from unmask_server.realtime.audio import Samples

MAX_CHUNKS: Final = 256


class SpeechIn:
    def __init__(self, rate: int, start_ms: int = 0) -> None:
        self.rate = rate
        self._start_ms = start_ms  # of the session's clock
        self._first = 0  # samples that have left since then
        self._chunks: list[Samples] = []
        self.num_samples = 0

    @property
    def end_ms(self) -> int:
        return self._start_ms + 1000 * (self._first + self.num_samples) // self.rate

    @property
    def duration_ms(self) -> float:
        return 1000 * self.num_samples / self.rate

    def append(self, samples: Samples) -> None:
        self._chunks.append(samples)
        self.num_samples += len(samples)
        if len(self._chunks) > MAX_CHUNKS:  # a list of small arrays is many times as large as they are
            self._chunks = [self._whole()]

    def until(self, ms: int | None = None) -> Samples:
        """What came before that time, or all."""
        return self._whole()[: self._end(ms)]

    def take(self, until_ms: int | None = None) -> Samples:
        """The same; it leaves the buffer."""
        whole, end = self._whole(), self._end(until_ms)
        self._chunks = [whole[end:].copy()]
        self._first += end
        self.num_samples -= end
        return whole[:end]

    def _end(self, ms: int | None) -> int:
        """The number of samples before that time."""
        if ms is None:
            return self.num_samples
        return min(max((ms - self._start_ms) * self.rate // 1000 - self._first, 0), self.num_samples)

    def _whole(self) -> Samples:
        return np.concatenate([np.zeros(0, np.int16), *self._chunks])
