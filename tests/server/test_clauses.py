import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask_server.clauses import MAX_BYTES, clauses


def test_sentences_are_pieces() -> None:
    assert clauses("Hello there. How are you?\nFine!  3.5 of it… 好的。再见") == (
        "Hello there.", "How are you?", "Fine!", "3.5 of it…", "好的。", "再见"
    )  # fmt: skip


def test_a_long_sentence_is_cut_at_its_clauses() -> None:
    clause = "a red circle stands to the left of it,"
    pieces = clauses(" ".join([clause] * 8))
    assert pieces == (" ".join([clause] * 5), " ".join([clause] * 3))


def test_without_clauses_at_its_words_and_without_those_anywhere() -> None:
    assert clauses("word " * 60) == (("word " * 40).strip(), ("word " * 20).strip())
    assert clauses("x" * 500) == ("x" * 200, "x" * 200, "x" * 100)


def test_a_piece_has_so_many_words_at_most() -> None:
    assert clauses("A red circle, a blue star and a green square. Yes.", 4) == (
        "A red circle,", "a blue star and", "a green square.", "Yes."
    )  # fmt: skip
    assert clauses("one two three", 1) == ("one", "two", "three")


@pytest.mark.parametrize("text", ["", "  \n "])
def test_nothing_is_no_piece(text: str) -> None:
    assert clauses(text) == ()


@given(st.text(st.sampled_from("ab ,.!\n。，é漢🙂"), max_size=700), st.none() | st.integers(1, 12))
def test_every_letter_is_spoken_once(text: str, max_words: int | None) -> None:
    pieces = clauses(text, max_words)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len(piece.encode()) <= MAX_BYTES for piece in pieces)
    assert all(len(piece.split()) <= (max_words or 700) for piece in pieces)
