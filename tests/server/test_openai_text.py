"""Text that streams up to a stop string: the pieces are the whole, however it arrives."""

from hypothesis import given
from hypothesis import strategies as st

from unmask_engine.request import TextToken
from unmask_server.openai_text import TextStream, logprobs, stopped

TEXTS = st.text("ab ", max_size=12)
STOPS = st.lists(st.text("ab ", min_size=1, max_size=4), max_size=4)


@given(TEXTS, STOPS, st.lists(st.integers(0, 12)))
def test_pieces_are_the_stopped_text(text: str, stops: list[str], cuts: list[int]) -> None:
    stream = TextStream(stops)
    pieces = [stream.feed(text[:cut]) for cut in sorted(cuts)]
    said = "".join(pieces)
    assert stopped(text, stops).startswith(said)
    assert said + stream.feed(text, final=True) == stopped(text, stops)
    assert all(stop not in stopped(text, stops) for stop in stops)


def test_without_stops_nothing_is_held_back() -> None:
    stream = TextStream(())
    assert [stream.feed("one"), stream.feed("one two"), stream.feed("one two", final=True)] == ["one", " two", ""]


def test_logprobs_cover_the_text_and_no_more() -> None:
    tokens = [TextToken("one", -0.5), TextToken(" two", 0.25), TextToken("\n", None)]
    assert [entry["token"] for entry in logprobs(tokens, "one two", 0)] == ["one", " two"]
    assert [entry["token"] for entry in logprobs(tokens, "on", 0)] == ["one"]
    assert list(logprobs(tokens, "", 0)) == []
    (first, *_) = logprobs(tokens, "one two", 1)
    assert first["top_logprobs"] == [{"token": "one", "logprob": -0.5, "bytes": [111, 110, 101]}]
