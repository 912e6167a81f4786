"""Turns in a stream of sound, with a detector whose opinion is the sound's level."""

import numpy as np
import pytest

from unmask_server.realtime.vad import (
    FRAME_MS,
    MIN_SPEECH_MS,
    PAUSE_MS,
    Patience,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    TurnDetector,
)

RATE = 16_000
SPEECH, HALF, SILENCE = 0.9, 0.4, 0.0  # HALF goes on with speech but does not begin it


def sound(*parts: tuple[float, int]) -> np.ndarray:
    """Levels and milliseconds -> samples."""
    return np.concatenate([np.full(16 * ms, level * 32767, np.int16) for level, ms in parts])


def detector(patience: Patience | None = None, offset_ms: int = 0) -> TurnDetector:
    return TurnDetector(
        lambda frame: float(np.abs(frame).mean()),
        RATE,
        threshold=0.5,
        padding_ms=300,
        patience=patience or Patience(500, 500),
        offset_ms=offset_ms,
    )


def near(ms: int):
    return pytest.approx(ms, abs=2 * FRAME_MS)


@pytest.mark.parametrize("chunk_ms", [7, 20, 100, 10_000])
def test_a_turn(chunk_ms) -> None:
    heard = sound((SILENCE, 1000), (SPEECH, 600), (SILENCE, 1000))
    turns = detector(offset_ms=40)
    size = 16 * chunk_ms
    changes = [change for at in range(0, len(heard), size) for change in turns.feed(heard[at : at + size])]
    paused = near(1640 + PAUSE_MS)
    assert changes == [SpeechStarted(near(740)), SpeechPaused(paused), SpeechStopped(near(2140), paused)]
    assert changes[1].ms == changes[2].heard_ms
    assert all(isinstance(change.ms, int) for change in changes)


def test_a_pause_within_a_turn() -> None:
    changes = detector().feed(sound((SPEECH, 600), (SILENCE, 400), (SPEECH, 600), (SILENCE, 1000)))
    assert [type(change) for change in changes] == [
        SpeechStarted,
        SpeechPaused,
        SpeechResumed,
        SpeechPaused,
        SpeechStopped,
    ]
    assert changes[1].ms == near(600 + PAUSE_MS)
    assert changes[3].ms == changes[4].heard_ms == near(1600 + PAUSE_MS)


def test_a_silence_that_ends_the_turn_before_it_is_a_pause_is_heard_whole() -> None:
    started, stopped = detector(Patience(100, 100)).feed(sound((SPEECH, 600), (SILENCE, 1000)))
    assert started.ms == 0
    assert stopped.ms == stopped.heard_ms == near(700)


def test_a_cough_is_no_turn() -> None:
    assert not detector().feed(sound((SILENCE, 500), (SPEECH, MIN_SPEECH_MS - 2 * FRAME_MS), (SILENCE, 1000)))


def test_what_does_not_begin_speech_goes_on_with_it() -> None:
    assert not detector().feed(sound((HALF, 1000)))
    started, _, stopped = detector().feed(sound((SPEECH, 200), (HALF, 1000), (SILENCE, 600)))
    assert (started.ms, stopped.ms) == (0, near(1700))


def test_the_padding_does_not_reach_into_the_turn_before() -> None:
    changes = detector(Patience(150, 150)).feed(sound((SPEECH, 300), (SILENCE, 250), (SPEECH, 300)))
    assert changes[2].ms == changes[1].ms


def test_patience_grows_with_the_speakers_pauses() -> None:
    turns = detector(Patience(400, 1000))
    assert turns.feed(sound((SPEECH, 300), (SILENCE, 500)))[-1] == SpeechStopped(near(700), near(300 + PAUSE_MS))
    turns = detector(Patience(400, 1000))
    hesitant = turns.feed(sound((SPEECH, 300), (SILENCE, 380), (SPEECH, 300), (SILENCE, 500)))
    assert not any(isinstance(change, SpeechStopped) for change in hesitant)  # 400 ms end no turn any more
    stopped = turns.feed(sound((SILENCE, 200)))[-1]
    assert stopped == SpeechStopped(near(300 + 380 + 300 + 570), near(300 + 380 + 300 + PAUSE_MS))


def test_who_goes_on_at_once_had_not_ended() -> None:
    turns = detector(Patience(400, 1000))
    turns.feed(sound((SPEECH, 300), (SILENCE, 700), (SPEECH, 300)))
    (paused,) = turns.feed(sound((SILENCE, 900)))
    assert isinstance(paused, SpeechPaused)
    assert turns.feed(sound((SILENCE, 200)))
