"""Whole turns over a real socket: the order of events, which clients depend on."""

import base64
from dataclasses import replace

import numpy as np
import pytest

from unmask_engine.request import AudioPart, ImagePart, TextPart, Turn
from unmask_server.realtime.vad import PAUSE_MS
from unmask_server.settings import Settings

HEARD = ["input_audio_buffer.committed", "conversation.item.added", "conversation.item.done"]
BEGUN = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
]
ENDED = [
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
]
SPOKEN = [*BEGUN, "response.output_audio_transcript.delta", "response.output_audio.delta", *ENDED]
VAD = {"type": "server_vad", "silence_duration_ms": 300}


def test_push_to_talk(dial, make) -> None:
    with dial() as client:
        client.listen()
        client.speak(make.voice(1.0))
        client.send("input_audio_buffer.commit")
        user = client.until("conversation.item.done")["item"]
        assert user["content"] == [{"type": "input_audio", "transcript": None}]
        client.send("response.create")
        done = client.until("response.done")["response"]
        assert client.kinds() == ["session.created", "session.updated", *HEARD, *SPOKEN]
        (item,) = done["output"]
        assert (item["status"], item["content"]) == (
            "completed",
            [{"type": "output_audio", "transcript": make.answer}],
        )
        assert done["usage"]["total_tokens"] == 17
        assert len(client.audio()) == pytest.approx(24_000, abs=2)
        (request,) = make.engine.requests
        (heard,) = request.parts
        assert isinstance(heard, AudioPart)
        assert (len(heard.samples), heard.sample_rate, request.task) == (24_000, 24_000, "sqa")


def test_a_turn_is_detected(dial, make) -> None:
    with dial() as client:
        client.listen(**VAD)
        client.speak(np.concatenate([make.quiet(1.0), make.voice(1.0), make.quiet(0.5)]))
        client.until("response.done")
        turn = ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", *HEARD]
        assert client.kinds() == ["session.created", "session.updated", *turn, *SPOKEN]
        started, stopped = client.seen[2:4]
        assert started["audio_start_ms"] == pytest.approx(700, abs=50)  # the padding included
        assert stopped["audio_end_ms"] == pytest.approx(2300, abs=70)  # the silence included
        assert started["item_id"] == stopped["item_id"] == client.seen[4]["item_id"]
        (heard,) = make.engine.requests[0].parts
        silence_ms = 320 - PAUSE_MS  # in frames; the pause is heard, the rest of it only ends the turn
        assert len(heard.samples) == 24 * (stopped["audio_end_ms"] - started["audio_start_ms"] - silence_ms)


def test_barge_in(dial, make, wait) -> None:
    make.engine.stop_at = 6
    with dial() as client:
        client.listen(**VAD)
        client.speak(np.concatenate([make.voice(1.0), make.quiet(0.5)]))
        while len(client.audio()) < 13_000:
            client.event()
        talking = len(client.seen)
        client.speak(make.voice(0.5))
        done = client.until("response.done")["response"]
        kinds = [kind for kind in client.kinds(talking) if not kind.endswith(".delta")]
        assert kinds == ["input_audio_buffer.speech_started", *ENDED]
        assert (done["status"], done["status_details"]) == (
            "cancelled",
            {"type": "cancelled", "reason": "turn_detected"},
        )
        (item,) = done["output"]
        assert item["status"] == "incomplete"
        said = item["content"][0]["transcript"]
        assert 0 < len(said) < len(make.answer)
        assert make.answer.startswith(said)
        wait(lambda: make.engine.num_cancelled == 1)
        client.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=400)
        assert client.only("conversation.item.truncated")["audio_end_ms"] == 400
        make.engine.stop_at = None
        client.speak(make.quiet(0.5))
        assert client.until("response.done")["response"]["status"] == "completed"
        asked, heard = make.engine.requests[-1].history
        assert (asked.role, asked.text, len(asked.media), heard.media) == ("user", "", 1, ())
        assert said.startswith(heard.text)
        assert len(heard.text) < len(said)


def test_who_may_not_be_interrupted_goes_on(dial, make) -> None:
    make.engine.stop_at = 6
    with dial() as client:
        client.listen(**VAD, interrupt_response=False)
        client.speak(np.concatenate([make.voice(1.0), make.quiet(0.5)]))
        client.until("response.output_audio.delta")
        client.speak(make.voice(0.5))
        client.until("input_audio_buffer.speech_started")
        make.engine.stop_at = None
        assert client.until("response.done")["response"]["status"] == "completed"


def test_the_dialogue_so_far_is_the_prompt(dial, make) -> None:
    with dial() as client:
        client.set(instructions="be kind", output_modalities=["text"])
        client.ask("who are you")
        client.send("response.create")
        client.until("response.done")
        client.ask("what can you do")
        client.send("response.create", response={"instructions": "be brief"})
        client.until("response.done")
        first, second = make.engine.requests
        assert (first.task, first.outputs, first.instructions, first.history) == ("chat", ("text",), "be kind", ())
        assert second.parts == (TextPart("what can you do"),)
        assert second.instructions == "be brief"
        assert second.history == (Turn("user", "who are you"), Turn("assistant", make.answer))


def test_text_is_answered_by_speech(dial, make) -> None:
    with dial() as client:
        client.ask()
        start = len(client.seen)
        client.send("response.create")
        client.until("response.done")
        assert client.kinds(start) == SPOKEN
        assert [request.task for request in make.engine.requests] == ["chat", "tts"]
        assert make.engine.requests[1].parts == (TextPart(make.answer),)
        assert len(client.audio()) == pytest.approx(24_000, abs=2)


def test_text_is_answered_by_text(dial, make) -> None:
    with dial() as client:
        client.ask()
        start = len(client.seen)
        client.send("response.create", response={"output_modalities": ["text"], "metadata": {"client_event_id": "x"}})
        done = client.until("response.done")["response"]
        ended = ["response.output_text.done", *ENDED[2:]]
        assert client.kinds(start) == [*BEGUN, "response.output_text.delta", *ended]
        assert done["output"][0]["content"] == [{"type": "output_text", "text": make.answer}]
        assert done["metadata"] == {"client_event_id": "x"}


def test_a_picture_stays_in_view(dial, make, png) -> None:
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    with dial() as client:
        client.listen()
        client.ask(content=[{"type": "input_image", "image_url": url}])
        for _ in range(2):
            client.speak(make.voice(0.5))
            client.send("input_audio_buffer.commit")
            client.send("response.create")
            client.until("response.done")
        for request in make.engine.requests:
            assert request.task == "svqa"
            assert isinstance(request.parts[1], ImagePart)


def test_what_was_shown_and_said_before_is_in_the_turns_before(dial, make, png) -> None:
    """A picture, a question about it, another picture, another question: the latest one is asked about."""
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    with dial() as client:
        client.listen()
        for seconds in (0.5, 0.25):
            client.ask(content=[{"type": "input_image", "image_url": url}])
            client.speak(make.voice(seconds))
            client.send("input_audio_buffer.commit")
            client.send("response.create")
            client.until("response.done")
    first, second = make.engine.requests
    assert (first.task, second.task, first.history) == ("svqa", "svqa", ())
    shown, said, answered = second.history
    assert (shown.role, shown.text, said.text, answered) == ("user", "", "", Turn("assistant", make.answer))
    assert shown.media == (first.parts[1],)
    assert shown.media[0] is not second.parts[1]
    (recording,) = said.media
    assert isinstance(recording, AudioPart)
    assert np.array_equal(recording.samples, first.parts[0].samples)


def test_what_is_written_down_comes_along_as_text(dial, make) -> None:
    with dial() as client:
        client.set(audio={"input": {"turn_detection": None, "transcription": {"model": "any"}}})
        client.speak(make.voice(0.5))
        client.send("input_audio_buffer.commit")
        client.until("conversation.item.input_audio_transcription.completed")
        client.ask("and now")
        client.send("response.create")
        client.until("response.done")
    assert make.engine.requests[-2].history == (Turn("user", make.answer),)


def test_a_recording_as_an_item_is_a_question(dial, make, png) -> None:
    sound = base64.b64encode(make.voice(0.5).astype("<i2").tobytes()).decode()
    heard = {"type": "input_audio", "audio": sound, "transcript": "what is this"}
    shown = {"type": "input_image", "image_url": "data:image/png;base64," + base64.b64encode(png).decode()}
    with dial() as client:
        for content in ([heard], [shown, heard]):
            client.ask(content=content)
            client.send("response.create")
            assert client.until("response.done")["response"]["status"] == "completed"
        alone, together = make.engine.requests
        assert (alone.task, together.task) == ("sqa", "svqa")
        (recording,), (picture, same) = alone.parts, together.parts
        assert isinstance(picture, ImagePart)
        for audio in (recording, same):
            assert audio.sample_rate == 24_000
            assert np.array_equal(np.rint(audio.samples * 32768).astype(np.int16), make.voice(0.5))
        assert together.history[0] == Turn("user", "what is this")


def test_a_recording_that_is_too_long_is_refused(dial, make) -> None:
    media = replace(Settings().media, max_seconds=0.4)
    sound = base64.b64encode(make.voice(0.5).astype("<i2").tobytes()).decode()
    with dial(settings=Settings(media=media)) as client:
        content = [{"type": "input_audio", "audio": sound}]
        client.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        assert client.only("error")["error"]["code"] == "audio_too_long"


def earlier(dial, make, truncation: object) -> list[str] | str:
    """What the model is told of twelve turns of a thousand letters, too many of them; or why it is told nothing."""
    with dial() as client:
        assert client.set(truncation=truncation, output_modalities=["text"])["truncation"] == (truncation or "auto")
        for letter in "abcdefghijkl":
            client.ask(letter * 1000)
        client.ask("what did I say")
        client.send("response.create")
        details = client.until("response.done")["response"]["status_details"]
        if details["type"] == "failed":
            return details["error"]["code"]
        return [turn.text[0] for turn in make.engine.requests[-1].history]


def test_a_dialogue_that_is_too_long_is_cut_as_the_session_says(dial, make) -> None:
    half = {"type": "retention_ratio", "retention_ratio": 0.5}
    tight = {"type": "retention_ratio", "retention_ratio": 1.0, "token_limits": {"post_instructions": 2500}}
    assert earlier(dial, make, None) == list("ghijkl")
    assert earlier(dial, make, half) == list("ijkl")  # g made it efg, k made it ijk
    assert earlier(dial, make, tight) == list("kl")
    assert earlier(dial, make, "disabled") == "context_length_exceeded"


def test_instructions_alone_are_something_to_say(dial, make) -> None:
    with dial() as client:
        client.send("response.create", response={"instructions": "greet the user"})
        assert client.until("response.done")["response"]["status"] == "completed"
        assert make.engine.requests[0].parts == (TextPart("greet the user"),)


def test_out_of_band(dial, make) -> None:
    question = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "aside"}]}
    make.engine.stop_at = 5
    with dial() as client:
        item_id = client.ask()
        client.send("response.create")
        client.until("response.content_part.added")
        start = len(client.seen)
        wanted = {"conversation": "none", "input": [question], "output_modalities": ["text"], "metadata": {"a": "b"}}
        client.send("response.create", response=wanted)
        created = client.until("response.created")["response"]
        assert created["conversation_id"] is None
        make.engine.stop_at = None
        done = [client.until("response.done")["response"] for _ in range(2)]
        assert {response["metadata"] and response["metadata"]["a"] for response in done} == {None, "b"}
        assert "conversation.item.added" not in client.kinds(start)
        assert [request.parts for request in make.engine.requests[:2]] == [(TextPart("hello"),), (TextPart("aside"),)]
        reference = {"type": "item_reference", "id": item_id}
        client.send("response.create", response={**wanted, "input": [reference]})
        client.until("response.done")
        assert make.engine.requests[-1].parts == (TextPart("hello"),)


def test_transcripts_beside_the_dialogue(dial, make) -> None:
    with dial() as client:
        client.set(audio={"input": {"turn_detection": None, "transcription": {"model": "whisper-1"}}})
        client.speak(make.voice(0.5))
        client.send("input_audio_buffer.commit")
        item_id = client.until("conversation.item.done")["item"]["id"]
        completed = client.until("conversation.item.input_audio_transcription.completed")
        assert (completed["transcript"], completed["item_id"]) == (make.answer, item_id)
        client.send("conversation.item.retrieve", item_id=item_id)
        (content,) = client.only("conversation.item.retrieved")["item"]["content"]
        assert content["transcript"] == make.answer
        assert len(base64.b64decode(content["audio"])) == 24_000


def test_a_transcription_session(dial, make) -> None:
    with dial("?intent=transcription") as client:
        assert client.seen[0]["session"]["type"] == "transcription"
        client.speak(np.concatenate([make.voice(1.0), make.quiet(0.6)]))
        client.until("conversation.item.input_audio_transcription.completed")
        assert [request.task for request in make.engine.requests] == ["asr"]
        client.send("response.create")
        assert client.only("error")["error"]["code"] == "transcription_session"


@pytest.mark.parametrize(("name", "rate"), [("audio/pcmu", 8000), ("audio/pcma", 8000)])
def test_telephones(dial, make, name, rate) -> None:
    with dial() as client:
        format = {"type": name}
        client.set(audio={"input": {"format": format, "turn_detection": None}, "output": {"format": format}})
        client.send("input_audio_buffer.append", audio=base64.b64encode(bytes(rate)).decode())
        client.send("input_audio_buffer.commit")
        client.send("response.create")
        client.until("response.done")
        deltas = [e["delta"] for e in client.seen if e["type"] == "response.output_audio.delta"]
        sizes = [len(base64.b64decode(delta)) for delta in deltas]
        assert max(sizes) <= rate // 5
        assert sum(sizes) == pytest.approx(rate, abs=2)
        assert make.engine.requests[0].parts[0].sample_rate == rate


def test_instructions_follow_the_task_of_the_preset(dial, make) -> None:
    with dial() as client:
        client.set(instructions="be kind", audio={"input": {"turn_detection": None}})
        client.speak(make.voice(0.5))
        client.send("input_audio_buffer.commit")
        client.send("response.create")
        client.until("response.done")
        assert make.engine.requests[0].instructions == "Answer.\nbe kind"


def test_a_model_of_single_questions_hears_the_last_one(dial, make) -> None:
    make.engine.bundle.presets = tuple(replace(preset, dialogue=False) for preset in make.engine.bundle.presets)
    with dial() as client:
        client.set(instructions="be kind")
        for text in ("first", "second"):
            client.ask(text)
            client.send("response.create", response={"output_modalities": ["text"]})
            client.until("response.done")
        (_, last) = make.engine.requests
        assert (last.parts, last.instructions, last.history) == ((TextPart("second"),), None, ())
