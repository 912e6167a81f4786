"""The ear of a session: the input audio buffer, and where in it somebody speaks."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from unmask_engine.request import RequestError
from unmask_server.metrics import Metrics
from unmask_server.realtime import vad
from unmask_server.realtime.audio import Samples
from unmask_server.realtime.config import Input, ServerVad
from unmask_server.realtime.events import new_id
from unmask_server.realtime.idle import Idleness
from unmask_server.realtime.limits import RealtimeLimits
from unmask_server.realtime.speech_in import SpeechIn
from unmask_server.realtime.vad import Change, SpeechPaused, SpeechResumed, SpeechStarted, SpeechStopped, TurnDetector

MIN_COMMIT_MS: Final = 100
MAX_PIECE_S: Final = 1.0  # of sound looked through at a time: so long other sessions wait for the thread
DEFAULT_PADDING_MS: Final = ServerVad().prefix_padding_ms


@dataclass(frozen=True)
class TurnStarted:
    item_id: str  # of the item it will become
    ms: int


@dataclass(frozen=True)
class TurnPaused:
    """It may have ended."""

    item_id: str
    samples: Samples  # of the turn, if it has


@dataclass(frozen=True)
class TurnResumed:
    """It had not."""


@dataclass(frozen=True)
class TurnEnded:
    item_id: str
    ms: int
    samples: Samples


@dataclass(frozen=True)
class TurnMissed:
    """Silence for as long as the session waits: a turn in which nothing was said."""

    item_id: str
    start_ms: int
    ms: int
    samples: Samples


Turn = TurnStarted | TurnPaused | TurnResumed | TurnEnded | TurnMissed


class Listener:
    def __init__(self, settings: Input, limits: RealtimeLimits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._voice_at = time.perf_counter()  # when the latest voice came
        self._settings = settings
        self._buffer = SpeechIn(settings.wire_format.rate)
        self._item_id = new_id("item")
        self._idleness = Idleness()
        self._detector = self._new_detector()

    def configure(self, settings: Input) -> None:
        """What is in the buffer stays, unless its format changes; the detector begins anew."""
        old, self._settings = self._settings, settings
        if settings.format != old.format:
            self._buffer = SpeechIn(settings.wire_format.rate, self._buffer.end_ms)
        if (settings.format, settings.turn_detection) != (old.format, old.turn_detection):
            self._detector = self._new_detector()
            self._idleness.begin_anew(self._buffer.end_ms)

    def wait(self, left_s: float) -> None:
        """An answer is done, and so much of its sound is still to be played: from then on a silence may be too long."""
        if self._detector is not None and not self._detector.is_speech:
            self._idleness.wait(left_s)

    def stop_waiting(self) -> None:
        self._idleness.stop()

    async def hear(self, audio: object) -> list[Turn]:
        """base64 of the session's format; raises RequestError."""
        samples = self._settings.wire_format.decode(audio, "audio")
        if len(samples) > self._limits.max_turn_s * self._buffer.rate:
            raise self._too_long()
        if self._detector is None:
            if self._is_full(len(samples)):
                raise self._too_long()
            self._buffer.append(samples)
            return []
        self._idleness.begin(self._buffer.end_ms)
        self._buffer.append(samples)
        turns = [self._turn(change) for change in await self._detected(self._detector, samples)]
        if not self._detector.is_speech:
            turns += self._missed()
            kept_from, idle_from = self._buffer.end_ms - self._kept_ms, self._idleness.start_ms
            self._buffer.take(kept_from if idle_from is None else min(kept_from, idle_from))
        elif self._is_full(0):
            self._detector = self._new_detector()
            turns.append(self._turn(SpeechStopped(self._buffer.end_ms, self._buffer.end_ms)))
        return turns

    def commit(self) -> tuple[str, Samples]:
        """The id of the new item and all that is in the buffer; raises RequestError for too little."""
        if self._buffer.duration_ms < MIN_COMMIT_MS:
            message = (
                f"Error committing input audio buffer: expected at least {MIN_COMMIT_MS}ms of audio, "
                f"the buffer has {self._buffer.duration_ms:.2f}ms."
            )
            raise RequestError(message, code="input_audio_buffer_commit_empty")
        samples = self._buffer.take()
        item_id = self._item_id
        self._idleness.stop()
        self._begin_anew()
        return item_id, samples

    def clear(self) -> None:
        self._buffer.take()
        self._begin_anew()

    @property
    def rate(self) -> int:
        return self._buffer.rate

    @property
    def _kept_ms(self) -> int:
        """Of silence: what may yet turn out to be the beginning of a turn."""
        vad_settings = self._settings.turn_detection
        padding = vad_settings.prefix_padding_ms if isinstance(vad_settings, ServerVad) else DEFAULT_PADDING_MS
        return padding + vad.MIN_SPEECH_MS + 2 * vad.FRAME_MS + 100  # the resampler's delay, and some

    async def _detected(self, detector: TurnDetector, samples: Samples) -> list[Change]:
        arrived, voice_ms = time.perf_counter(), detector.voice_ms
        loop, size = asyncio.get_running_loop(), int(MAX_PIECE_S * self._buffer.rate)
        changes: list[Change] = []
        for start in range(0, len(samples), size):
            piece = samples[start : start + size]
            changes += await loop.run_in_executor(vad.THREADS, detector.feed, piece)
        now = time.perf_counter()
        self._metrics.detected(now - arrived)
        if detector.voice_ms != voice_ms:
            self._voice_at = arrived
        if any(isinstance(change, SpeechStopped) for change in changes):
            self._metrics.endpointed(now - self._voice_at)
        return changes

    def _turn(self, change: Change) -> Turn:
        if isinstance(change, SpeechStarted):
            self._buffer.take(change.ms)
            self._idleness.stop()
            return TurnStarted(self._item_id, change.ms)
        if isinstance(change, SpeechPaused):
            return TurnPaused(self._item_id, self._buffer.until(change.ms))
        if isinstance(change, SpeechResumed):
            return TurnResumed()
        heard = self._buffer.until(change.heard_ms)
        self._buffer.take(change.ms)
        ended = TurnEnded(self._item_id, change.ms, heard)
        self._item_id = new_id("item")
        return ended

    def _missed(self) -> list[Turn]:
        settings, start_ms = self._settings.turn_detection, self._idleness.start_ms
        timeout_ms = settings.idle_timeout_ms if isinstance(settings, ServerVad) else None
        if timeout_ms is None:
            self._idleness.stop()
            return []
        end_ms = self._buffer.end_ms
        if start_ms is None or end_ms - start_ms < timeout_ms:
            return []
        self._idleness.stop()
        self._buffer.take(start_ms)
        missed = TurnMissed(self._item_id, start_ms, end_ms, self._buffer.until())
        self._item_id = new_id("item")
        return [missed]

    def _begin_anew(self) -> None:
        self._item_id = new_id("item")
        self._idleness.begin_anew(self._buffer.end_ms)
        if self._detector is not None and self._detector.is_speech:
            self._detector = self._new_detector()

    def _new_detector(self) -> TurnDetector | None:
        settings = self._settings.turn_detection
        if settings is None:
            return None
        server_vad = settings if isinstance(settings, ServerVad) else ServerVad()
        return TurnDetector(
            vad.silero(),
            self._buffer.rate,
            threshold=server_vad.threshold,
            padding_ms=server_vad.prefix_padding_ms,
            patience=settings.patience(),
            offset_ms=self._buffer.end_ms,
        )

    def _is_full(self, more: int) -> bool:
        return self._buffer.num_samples + more > self._limits.max_turn_s * self._buffer.rate

    def _too_long(self) -> RequestError:
        message = f"The input audio buffer holds at most {self._limits.max_turn_s:g} seconds; commit or clear it."
        return RequestError(message, param="audio", code="input_audio_buffer_full")
