"""The extra field: the making of a text, told beside it."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from unmask_engine.request import Generation, Progress, TextToken, Timings, Tokens, Usage, Word
from unmask_server.realtime.config import Unmask
from unmask_server.realtime.unmasking import Unmasking

NOTHING = Tokens((), (), (), ())


def tokens(*placed: tuple[int, str | None, float]) -> Tokens:
    at, texts, scores = zip(*placed, strict=True)
    return Tokens(at, tuple(100 + i for i in at), scores, texts)


def progress(step: int, commits: Tokens, text: str | None, guesses: Tokens = NOTHING) -> Progress:
    return Progress(step, 4, step, 4, commits, guesses, text, (), ())


def generation(*words: TextToken) -> Generation:
    text = "".join(word.text for word in words)
    return Generation(
        task="chat",
        token_ids=(),
        confidence=(),
        text=text,
        audio=None,
        image=None,
        truncated=False,
        usage=Usage({}, {}, 0, 0),
        timings=Timings(0, 0, 0),
        text_tokens=words,
    )


def test_words_come_with_the_confidence_of_their_tokens_once_they_are_reached() -> None:
    made = Unmasking(Unmask(confidence=True), lambda: False)
    assert made.after(progress(1, tokens((2, " three", -0.3), (9, None, -0.1)), "")) == {}
    assert made.after(progress(2, tokens((0, "one", -0.1)), "")) == {}  # it may go on
    assert made.after(progress(3, tokens((1, " two", math.nan), (3, "", -0.2)), "one two")) == {
        "tokens": [{"text": "one", "confidence": -0.1}, {"text": " two", "confidence": None}]
    }
    whole = [TextToken("one", -0.1), TextToken(" two", None), TextToken(" three", -0.3)]
    assert made.finished(generation(*whole)) == {"tokens": [{"text": " three", "confidence": -0.3}]}


def test_a_slow_reader_loses_guesses_and_no_commits() -> None:
    slow = True
    made = Unmasking(Unmask(every_steps=2), lambda: slow)
    assert made.after(progress(1, tokens((0, "a", 0.0)), "")) == {}
    assert made.after(progress(2, tokens((1, "b", 0.0)), "", tokens((2, "x", 0.0)))) == {}
    slow = False
    assert made.after(progress(3, tokens((2, "c", 0.0)), "")) == {}
    seen = made.after(progress(4, tokens((3, "d", 0.0)), "", tokens((4, "y", 0.0))))
    assert (seen["canvas"], seen["step"], seen["steps"], seen["committed"], seen["total"]) == (0, 4, 4, 4, 4)
    assert seen["commits"] == {"positions": (0, 1, 2, 3), "ids": (100, 101, 102, 103), "texts": tuple("abcd")}
    assert seen["guesses"]["texts"] == ("y",)
    assert made.finished(generation()) == {}


def test_the_end_tells_what_the_last_view_left_out() -> None:
    made = Unmasking(Unmask(every_steps=3, confidence=True), lambda: False)
    made.after(progress(1, tokens((0, "a", math.nan)), "a"))
    seen = made.finished(generation(TextToken("a", None)))
    assert seen["commits"]["confidence"] == [None]
    assert "guesses" not in seen
    assert made.after(progress(3, tokens((0, None, 0.5)), None))["canvas"] == 1  # its speech


def with_commits(engine) -> None:
    """Each step of the fake model commits its word."""
    plain = engine.submit

    def submit(prepared, note=None, interactive=False):
        def told(progress: Progress) -> None:
            at = progress.step - 1
            note(replace(progress, commits=tokens((at, (" " if at else "") + engine.words[at], -0.1 * at))))

        return plain(prepared, note and told, interactive)

    engine.submit = submit


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_deltas_carry_it_for_who_asks(dial, make, modality) -> None:
    make.engine.words = make.answer.split()
    with_commits(make.engine)
    with dial() as client:
        assert "x_unmask" not in client.seen[0]["session"]
        session = client.set(output_modalities=[modality], x_unmask={"every_steps": 5, "confidence": True})
        assert session["x_unmask"] == {"every_steps": 5, "confidence": True, "word_times": False}
        client.ask()
        client.send("response.create")
        client.until("response.done")
        deltas = [e for e in client.seen if e["type"].endswith(("output_text.delta", "transcript.delta"))]
        assert "".join(e["delta"] for e in deltas) == make.answer
        seen = [e["x_unmask"] for e in deltas if "x_unmask" in e]
        views = [view for view in seen if "commits" in view]
        assert [view["step"] for view in views if view["canvas"] == 0] == [5, 10]
        assert {view["canvas"] for view in views} == ({0} if modality == "text" else {0, 1})
        said = "".join(token["text"] for view in seen for token in view.get("tokens", ()))
        assert make.answer.startswith(said)
        assert len(said.split()) > 5
        assert "x_unmask" not in client.set(x_unmask=None)
        client.send("session.update", session={"x_unmask": {"every": 5}})
        assert client.only("error")["error"]["param"] == "session.x_unmask.every"


def test_transcripts_of_the_user_carry_it_too(dial, make) -> None:
    make.engine.words = make.answer.split()
    with_commits(make.engine)
    with dial("?intent=transcription") as client:
        client.send(
            "session.update",
            session={
                "type": "transcription",
                "x_unmask": {"confidence": True},
                "audio": {"input": {"turn_detection": None}},
            },
        )
        client.only("session.updated")
        client.speak(make.voice(0.5))
        client.send("input_audio_buffer.commit")
        client.until("conversation.item.input_audio_transcription.completed")
        told = [token["text"] for e in client.seen for token in e.get("x_unmask", {}).get("tokens", ())]
        assert make.answer.startswith("".join(told))
        assert len(told) > 5


def with_word_times(engine, ctc_row_s: float | None = 0.04) -> None:
    """Where it is asked to, the fake model knows when it says its first two words."""
    engine.bundle.media = SimpleNamespace(ctc_row_s=ctc_row_s)
    plain = engine.answer

    def answer(talk):
        words = (Word("one", 0.1, 0.2), Word("two", 0.25, 0.5)) if talk.request.word_times else ()
        return replace(plain(talk), words=words)

    engine.answer = answer


def told_words(client) -> list[tuple[str, float, float]]:
    words = [word for e in client.seen for word in e.get("x_unmask", {}).get("words", ())]
    return [(word["text"], word["start_time"], word["end_time"]) for word in words]


def timed(client) -> list[tuple[str, float | None]]:
    """The deltas of the reply's transcript, and when each is said."""
    deltas = (e for e in client.seen if e["type"] == "response.output_audio_transcript.delta")
    return [(e["delta"], e.get("start_time")) for e in deltas if e["delta"]]


SAID = [("one", 0.1, 0.2), ("two", 0.25, 0.5)]


def test_a_spoken_answer_tells_when_its_words_are_said(dial, make) -> None:
    with_word_times(make.engine)
    with dial() as client:
        client.set(x_unmask={"word_times": True}, audio={"input": {"turn_detection": None}})
        client.speak(make.voice(0.5))
        client.send("input_audio_buffer.commit")
        client.send("response.create")
        client.until("response.done")
        assert told_words(client) == SAID
        (delta,) = (e for e in client.seen if "words" in e.get("x_unmask", {}))
        assert delta["type"] == "response.output_audio_transcript.delta"
        assert timed(client) == [("one", 0.1), (" two", 0.25), (" three four five six seven eight nine ten", None)]
        client.set(x_unmask=None)
        client.send("response.create")
        client.until("response.done")
        assert told_words(client) == SAID  # no more than before


def test_times_of_a_text_that_is_spoken_in_pieces_count_from_its_beginning(dial, make, monkeypatch) -> None:
    with_word_times(make.engine)
    monkeypatch.setattr("unmask_server.realtime.dialogue.clauses", lambda text, words: [text, text])
    with dial() as client:
        client.set(x_unmask={"word_times": True})
        client.ask()
        client.send("response.create")
        client.until("response.done")
        assert told_words(client) == [*SAID, ("one", 1.1, 1.2), ("two", 1.25, 1.5)]
        assert "".join(delta for delta, _ in timed(client)) == make.answer
        assert timed(client)[:2] == [("one", 0.1), (" two", 0.25)]
        assert [request.word_times for request in make.engine.requests] == [False, True, True]  # a text is said nowhere


def test_who_interrupts_a_reply_that_waits_for_its_times_is_told_its_words(dial, make) -> None:
    with_word_times(make.engine)
    make.engine.stop_at = 5
    with dial() as client:
        client.set(x_unmask={"word_times": True}, audio={"input": {"turn_detection": None}})
        client.speak(make.voice(0.5))
        client.send("input_audio_buffer.commit")
        client.send("response.create")
        while len(client.audio()) < 0.3 * 24_000:
            client.event()
        assert not timed(client)
        client.send("response.cancel")
        (item,) = client.until("response.done")["response"]["output"]
        ((told, start),) = timed(client)
        assert start is None
        assert make.answer.startswith(told)
        assert told.startswith(item["content"][0]["transcript"])
        assert item["content"][0]["transcript"]


def test_transcripts_of_the_user_tell_when_words_were_said(dial, make) -> None:
    with_word_times(make.engine)
    with dial("?intent=transcription") as client:
        session = {"type": "transcription", "x_unmask": {"word_times": True}}
        client.send("session.update", session={**session, "audio": {"input": {"turn_detection": None}}})
        client.only("session.updated")
        client.speak(make.voice(0.5))
        client.send("input_audio_buffer.commit")
        client.until("conversation.item.input_audio_transcription.completed")
        assert told_words(client) == SAID


def test_who_cannot_tell_when_words_are_said_says_so(dial, make) -> None:
    with_word_times(make.engine, ctc_row_s=None)
    with dial() as client:
        client.send("session.update", session={"x_unmask": {"word_times": True}})
        error = client.only("error")["error"]
        assert (error["code"], error["param"]) == ("not_supported", "session.x_unmask.word_times")
        assert "x_unmask" not in client.set()
