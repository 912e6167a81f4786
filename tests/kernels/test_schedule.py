import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask_kernels.schedule import block_steps, commit_count, commit_counts, commit_probability

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "dream_golden.json").read_text())["unit"]


@pytest.mark.parametrize("case", GOLDEN["transfer_schedule"])
def test_counts_are_the_reference_s(case: str) -> None:
    masked, steps = map(int, case.split(","))
    assert list(commit_counts(masked, steps)) == GOLDEN["transfer_schedule"][case]


@given(masked=st.integers(1, 600), steps=st.integers(1, 600))
def test_the_counts_complete_the_canvas_in_at_most_the_steps(masked: int, steps: int) -> None:
    counts = commit_counts(masked, steps)
    assert sum(counts) == masked
    assert len(counts) <= steps
    assert min(counts) >= 1


@given(length=st.integers(1, 400), block=st.one_of(st.none(), st.integers(1, 500)), steps=st.integers(1, 400))
def test_every_block_gets_a_step(length: int, block: int | None, steps: int) -> None:
    shares = block_steps(length, block, steps)
    assert len(shares) == -(-length // min(block or length, length))
    assert min(shares) >= 1
    assert sum(shares) <= max(steps, len(shares))


def test_blocks_lose_fractions_of_steps_like_the_reference() -> None:
    assert block_steps(24, 5, 12) == (2, 2, 2, 2, 2)
    assert block_steps(24, 8, 2) == (1, 1, 1)  # the reference runs no step at all here
    assert block_steps(32, None, 16) == (16,)


def test_a_count_never_exceeds_what_is_masked_and_the_last_step_takes_all() -> None:
    assert commit_count(0, 3, 10) == 0
    assert commit_count(57, 9, 10) == 57
    assert commit_probability(9, 10) == 1.0
    assert commit_probability(0, 10) == pytest.approx(0.0999)
    with pytest.raises(ValueError, match="outside"):
        commit_count(5, 10, 10)
