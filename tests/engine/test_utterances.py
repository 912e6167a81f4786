import numpy as np
import pytest
from numpy.typing import NDArray

from unmask_engine.request import AudioPart
from unmask_engine.utterances import LONGEST_S, utterances

RATE = 8000


def sound(seconds: float) -> NDArray[np.float32]:
    return (np.sin(np.arange(round(seconds * RATE)) * 0.3) * 0.3).astype(np.float32)


def silence(seconds: float) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 0.001, round(seconds * RATE)).astype(np.float32)


def recording(*pieces: NDArray[np.float32]) -> AudioPart:
    return AudioPart(np.concatenate(pieces), RATE)


def test_pauses_separate_utterances_and_tell_their_times() -> None:
    whole = recording(silence(0.5), sound(1.0), silence(1.5), sound(2.0), silence(0.3))
    first, second = utterances(whole)
    assert (first.start, first.end) == pytest.approx((0.5, 1.5), abs=0.11)
    assert (second.start, second.end) == pytest.approx((3.0, 5.0), abs=0.11)
    assert len(first.audio.samples) / RATE == pytest.approx(2.25, abs=0.1)  # the pause is shared
    assert first.audio.sample_rate == RATE


def test_nothing_is_lost() -> None:
    whole = recording(sound(1.0), silence(1.0), sound(30.0), silence(0.9), sound(45.0))
    found = utterances(whole)
    assert np.array_equal(np.concatenate([u.audio.samples for u in found]), whole.samples)
    assert max(len(u.audio.samples) for u in found) <= LONGEST_S * RATE


def test_breaths_between_words_are_no_pauses() -> None:
    whole = recording(*[sound(0.4), silence(0.4)] * 5)
    (only,) = utterances(whole)
    assert np.array_equal(only.audio.samples, whole.samples)


def test_what_goes_on_too_long_is_cut_where_it_is_quietest() -> None:
    first, second = utterances(recording(sound(14.0), silence(0.5), sound(10.0)))
    assert len(first.audio.samples) / RATE == pytest.approx(14.25, abs=0.25)
    assert (first.end, second.start) == pytest.approx((14.0, 14.5), abs=0.11)


@pytest.mark.parametrize("samples", [np.zeros(1, np.float32), np.zeros(RATE, np.float32), silence(2.0), sound(0.003)])
def test_one_utterance_there_always_is(samples: NDArray[np.float32]) -> None:
    (only,) = utterances(AudioPart(samples, RATE))
    assert np.array_equal(only.audio.samples, samples)
    assert 0 <= only.start <= only.end <= len(samples) / RATE + 0.01


@pytest.mark.parametrize("rate", [4_000, 11_025, 12_345, 44_100, 192_000])
@pytest.mark.parametrize("extra", [0, 1])
def test_any_rate_and_length(rate: int, extra: int) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 2 * rate + extra).astype(np.float32)
    (only,) = utterances(AudioPart(samples, rate))
    assert np.array_equal(only.audio.samples, samples)
