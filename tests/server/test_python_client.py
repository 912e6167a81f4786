"""The Python client against this server."""

import numpy as np
import pytest

from unmask_client import Audio, BadRequestError, Client, Image, Span, events


@pytest.fixture(scope="module")
def ours(client):
    with Client(str(client.base_url), timeout=60) as ours:
        yield ours


def test_every_kind_of_answer(ours, png: bytes, wav: bytes) -> None:
    assert ours.draw("a red circle", format="webp", seed=1).pil().size == (24, 16)
    assert ours.speak("hello").samples()[1] == 22050
    assert ours.speak("hello", format="mp3").format == "mp3"
    assert ours.ask("what is this?", image=png) == "what is this?"
    assert ours.transcribe(wav) == ""
    assert ours.chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]) == "hello"
    answer = ours.generate(["what?", Image(png)], output=["text", "audio"], extras=["confidence"])
    assert (answer.text, answer.audio.transcript, answer.status) == ("what?", "what?", "completed")
    assert answer.raw["confidence"] == [None, -0.5, 0.0]


def test_a_stream(ours) -> None:
    seen = list(ours.stream("one two three four", output=["text", "audio"], preview={"every_steps": 1}))
    assert isinstance(seen[0], events.Created)
    assert not [event for event in seen if isinstance(event, events.Unknown)]
    assert {events.Step, events.TokensCommitted, events.TextDone, events.AudioDone} <= set(map(type, seen))
    pieces = [event.audio.samples()[0] for event in seen if isinstance(event, events.AudioDelta)]
    whole = seen[-1].generation
    assert np.array_equal(np.concatenate(pieces), whole.audio.samples()[0])
    assert "".join(event.text for event in seen if isinstance(event, events.TextDelta)) == whole.text


def test_edits(ours, engine, png: bytes, wav: bytes) -> None:
    mask = np.zeros((20, 30), bool)
    mask[:10] = True
    assert isinstance(ours.edit(Image(png), "a red circle", mask=mask), Image)
    assert np.array_equal(engine.requests[-1].edit.mask, mask)
    assert isinstance(ours.edit(Audio.of(wav), "a blue circle", spans=[Span(0.01, 0.02, "blue")]), Audio)
    assert ours.edit("a [MASK:1] circle", "what?") == "what?"
    assert engine.requests[-1].edit.target.text == "a [MASK:1] circle"


def test_refusals(ours) -> None:
    with pytest.raises(BadRequestError) as caught:
        ours.draw("x", steps=0)
    assert (caught.value.code, caught.value.param) == ("steps_out_of_range", "decoding.steps")
    assert caught.value.request_id


def test_a_stream_that_is_left_frees_the_engine(start, new_engine, wait) -> None:
    new_engine.hold.set()
    with start(lambda: new_engine) as client, Client(str(client.base_url)) as ours:
        wait(lambda: client.get("/ready").status_code == 200)
        for event in ours.stream("hello"):
            if isinstance(event, events.Step):
                break
        assert new_engine.cancelled.wait(60)
