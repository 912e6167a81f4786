"""`idle_timeout_ms`: who says nothing after an answer is answered all the same."""

import time

import numpy as np
import pytest

VAD = {"type": "server_vad", "silence_duration_ms": 300, "idle_timeout_ms": 1000}
TIMED_OUT = [
    "input_audio_buffer.timeout_triggered",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    "response.created",
]


def answered(client, make) -> int:
    """A text, so that nothing is left to be played; the number of events so far."""
    client.ask()
    client.send("response.create", response={"output_modalities": ["text"]})
    client.until("response.done")
    client.send("session.update", session={"type": "realtime"})  # what is done has been seen to by now
    client.only("session.updated")
    return len(client.seen)


def test_a_silence_is_a_turn_in_which_nothing_is_said(dial, make) -> None:
    with dial() as client:
        client.listen(**VAD)
        client.speak(make.quiet(2.0))  # before the first answer nobody is waited for
        start = answered(client, make)
        client.speak(make.quiet(2.0))
        client.until("response.done")
        assert client.kinds(start)[: len(TIMED_OUT)] == TIMED_OUT
        told, committed, added = client.seen[start : start + 3]
        assert told["audio_start_ms"] == 2000
        assert told["audio_end_ms"] == 3000
        assert told["item_id"] == committed["item_id"] == added["item"]["id"]
        assert added["item"]["role"] == "user"
        (heard,) = make.engine.requests[-1].parts
        assert len(heard.samples) == 24_000
        client.send("conversation.item.retrieve", item_id=told["item_id"])
        assert client.until("conversation.item.retrieved")["item"]["content"][0]["type"] == "input_audio"


def test_an_answer_is_heard_out_first(dial, make) -> None:
    with dial() as client:
        client.listen(**VAD)
        client.speak(np.concatenate([make.voice(1.0), make.quiet(0.4)]))
        client.until("response.done")
        over = time.monotonic()  # a second of sound has come in a few steps
        while "input_audio_buffer.timeout_triggered" not in client.kinds():
            client.speak(make.quiet(0.1))
            client.send("session.update", session={"type": "realtime"})
            client.until("session.updated")
        # The answer was played for most of a second; the silence itself was sent in no time.
        assert time.monotonic() - over > 0.5


def test_who_speaks_up_is_not_timed_out(dial, make) -> None:
    with dial() as client:
        client.listen(**VAD, create_response=False)
        start = answered(client, make)
        client.speak(np.concatenate([make.quiet(0.8), make.voice(0.5), make.quiet(3.0)]))
        client.until("conversation.item.done")
        client.set()
        assert "input_audio_buffer.timeout_triggered" not in client.kinds(start)


def test_without_automatic_answers_the_silence_is_told(dial, make) -> None:
    with dial() as client:
        client.listen(**VAD, create_response=False)
        start = answered(client, make)
        client.speak(make.quiet(2.0))
        client.until("conversation.item.done")
        client.set()
        assert client.kinds(start) == [*TIMED_OUT[:4], "session.updated"]


@pytest.mark.parametrize("interruption", ["clear", "listen"])
def test_a_silence_that_is_thrown_away_begins_anew(dial, make, interruption) -> None:
    with dial() as client:
        client.listen(**VAD)
        start = answered(client, make)
        client.speak(make.quiet(0.9))
        if interruption == "clear":
            client.send("input_audio_buffer.clear")
            client.only("input_audio_buffer.cleared")
        else:
            client.listen(**VAD | {"threshold": 0.6})
        client.speak(make.quiet(1.2))
        told = client.until("input_audio_buffer.timeout_triggered")
        assert (told["audio_start_ms"], told["audio_end_ms"]) == (900, 1900)
        client.until("response.done")
        assert len(make.engine.requests[-1].parts[0].samples) == 24_000
        assert len([kind for kind in client.kinds(start) if kind.endswith("timeout_triggered")]) == 1


@pytest.mark.parametrize("timeout", [10, 100_000, "soon"])
def test_a_timeout_out_of_bounds_is_refused(dial, timeout) -> None:
    with dial() as client:
        detection = {"type": "server_vad", "idle_timeout_ms": timeout}
        client.send("session.update", session={"audio": {"input": {"turn_detection": detection}}})
        error = client.only("error")["error"]
        assert error["param"].startswith("session.audio.input.turn_detection")
        assert "idle_timeout_ms" in error["message"]
