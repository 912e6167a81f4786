"""Forced alignment: on posteriors whose answer is known, and against every path there is."""

import itertools
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask_engine.alignment import BLANK, WordClock, forced_alignment
from unmask_engine.request import AudioPart


def posteriors(path: list[int], num_classes: int = 5, surely: float = 0.9) -> np.ndarray:
    """Log-probabilities (T, C) that say `path`, class by row."""
    probs = np.full((len(path), num_classes), (1 - surely) / (num_classes - 1), np.float32)
    probs[np.arange(len(path)), path] = surely
    return np.log(probs)


def test_each_class_is_found_where_it_was_said() -> None:
    log_probs = posteriors([0, 0, 2, 2, 0, 1, 3, 3, 3, 0])
    assert forced_alignment(log_probs, [2, 1, 3]) == (range(2, 4), range(5, 6), range(6, 9))


def test_a_blank_stands_between_equal_classes() -> None:
    assert forced_alignment(posteriors([1, 1, 0, 1]), [1, 1]) == (range(2), range(3, 4))
    first, second = forced_alignment(posteriors([1, 1, 1]), [1, 1]) or ()
    assert (first, second) == (range(1), range(2, 3))


def test_a_class_that_was_not_heard_still_lies_between_its_neighbours() -> None:
    rows = forced_alignment(posteriors([0, 1, 0, 0, 2, 0]), [1, 3, 2])
    assert rows is not None
    assert rows[0].stop <= rows[1].start < rows[1].stop <= rows[2].start


def test_too_few_rows_and_none_at_all() -> None:
    assert forced_alignment(posteriors([1, 2]), [1, 2, 3]) is None
    assert forced_alignment(posteriors([1, 1]), [1, 1]) is None  # no row is left for the blank
    assert forced_alignment(posteriors([1, 2]), []) == ()
    assert forced_alignment(np.zeros((0, 5), np.float32), [1]) is None
    for wrong in ([0], [5], [-1]):
        with pytest.raises(ValueError, match="between 1 and 4"):
            forced_alignment(posteriors([1]), wrong)


def collapsed(path: tuple[int, ...]) -> list[int]:
    return [index for index, _ in itertools.groupby(path) if index != BLANK]


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 2), min_size=1, max_size=3),
    st.lists(st.lists(st.floats(-5, 0, width=32), min_size=3, max_size=3), min_size=1, max_size=6),
)
def test_no_other_path_is_better(classes: list[int], rows: list[list[float]]) -> None:
    log_probs = np.array(rows, np.float32)
    paths = [p for p in itertools.product(range(3), repeat=len(rows)) if collapsed(p) == classes]
    found = forced_alignment(log_probs, classes)
    if not paths:
        assert found is None
        return
    assert found is not None
    assert all(left.stop <= right.start for left, right in pairwise(found))
    mine = np.full(len(rows), BLANK)
    for index, at in zip(classes, found, strict=True):
        mine[at.start : at.stop] = index
    assert collapsed(tuple(mine)) == classes

    def score(path: tuple[int, ...] | np.ndarray) -> float:
        return float(log_probs.astype(np.float64)[np.arange(len(rows)), np.array(path)].sum())

    assert score(mine) == pytest.approx(max(map(score, paths)), abs=1e-9)


def clock(path: list[int]) -> WordClock:
    """Hears `path`; the token of a letter is its place in the alphabet, without the space before a word."""
    heard = torch.from_numpy(posteriors(path, 27))
    return WordClock(lambda _: heard, lambda text: [ord(c) - ord("a") for c in text.strip()], 16000, 0.06)


SECOND = AudioPart(np.zeros(48000, np.float32), 48000)


def test_words_have_the_times_of_their_tokens() -> None:
    # Rows of 60 ms around 12.5 ms: row 4 begins at 3.5 * 60 + 12.5 ms.
    path = [0] * 4 + [1, 1, 2] + [0] * 2 + [3] + [0] * 7
    words = clock(path).words(SECOND, "ab  c")
    assert [word.text for word in words] == ["ab", "c"]
    assert words[0].start == pytest.approx(0.2225 - 0.2, abs=1e-3)
    assert words[0].end == words[1].start == pytest.approx(0.4025 + 0.06, abs=1e-3)  # half of the gap
    assert words[1].end == pytest.approx(0.5825 + 0.2, abs=1e-3)


def test_words_stay_inside_of_the_recording_and_in_order() -> None:
    words = clock([1, 2, 3, 0] + [0] * 11 + [4]).words(SECOND, "a b c d")
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[0] == 0.0
    assert times[-1] <= 1.0


def test_words_that_cannot_be_there_are_not_made_up() -> None:
    assert clock([1, 2]).words(SECOND, "abcd") == ()
    assert clock([1, 2]).words(SECOND, "é") == ()  # a token past the head's classes
    assert clock([]).words(SECOND, "a") == ()
    assert clock([1]).words(SECOND, "") == ()
