"""Single events: items, settings, and what is wrong with them."""

import pytest


def code(client) -> str:
    return client.only("error")["error"]["code"]


def test_settings_merge_deeply(dial) -> None:
    with dial() as client:
        defaults = client.seen[0]["session"]
        vad = {"type": "server_vad", "threshold": 0.7, "prefix_padding_ms": None}
        session = client.set(audio={"input": {"turn_detection": vad}}, instructions="x", model="gpt-realtime", voice=1)
        assert session["audio"]["input"]["turn_detection"] == {
            **defaults["audio"]["input"]["turn_detection"],
            "threshold": 0.7,
        }
        assert session["audio"]["output"] == defaults["audio"]["output"]
        session = client.set(audio={"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}}})
        assert "threshold" not in session["audio"]["input"]["turn_detection"]
        assert session["instructions"] == "x"
        session = client.set(audio={"input": {"turn_detection": None, "noise_reduction": {"type": "near_field"}}})
        assert session["audio"]["input"]["turn_detection"] is None
        assert session["audio"]["input"]["noise_reduction"] == {"type": "near_field"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}, "session.audio.input.format"),
        ({"audio": {"input": {"format": "pcm16"}}}, "session.audio.input.format"),
        ({"audio": {"input": {"turn_detection": {"type": "none"}}}}, "session.audio.input.turn_detection"),
        ({"audio": {"output": {"voice": "nobody"}}}, "session.audio.output.voice"),
        ({"audio": {"output": {"speed": 1.5}}}, "session.audio.output.speed"),
        ({"output_modalities": ["image"]}, "session.output_modalities"),
        ({"max_output_tokens": 0}, "session.max_output_tokens"),
        ({"truncation": "never"}, "session.truncation.type"),
        ({"truncation": {"type": "retention_ratio", "retention_ratio": 2}}, "session.truncation.retention_ratio"),
        ({"tools": [{"type": "function", "name": "f"}]}, "session.tools"),
        ([], "session"),
    ],
)
def test_settings_that_cannot_be_honoured(dial, change, param) -> None:
    with dial() as client:
        client.send("session.update", session=change, event_id="mine")
        error = client.only("error")["error"]
        assert error["param"].startswith(param)
        assert error["event_id"] == "mine"
        assert client.set()["audio"] == client.seen[0]["session"]["audio"]


def test_items_come_and_go(dial) -> None:
    with dial() as client:
        client.ask(id="a")
        client.ask(id="b")
        item = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "x"}], "id": "c"}
        client.send("conversation.item.create", item=item, previous_item_id="a")
        assert client.only("conversation.item.added")["previous_item_id"] == "a"
        client.only("conversation.item.done")
        client.send("conversation.item.create", item=item | {"id": "d"}, previous_item_id="root")
        assert client.only("conversation.item.added")["previous_item_id"] is None
        client.only("conversation.item.done")
        client.send("conversation.item.retrieve", item_id="c")
        assert client.only("conversation.item.retrieved")["item"]["content"] == item["content"]
        client.send("conversation.item.delete", item_id="c")
        assert client.only("conversation.item.deleted")["item_id"] == "c"
        client.send("conversation.item.retrieve", item_id="c")
        assert code(client) == "item_retrieve_invalid_item_id"
        client.send("conversation.item.create", item=item | {"id": "a"})
        assert code(client) == "item_create_duplicate_item_id"


def test_truncating_beyond_the_end_is_acknowledged(dial) -> None:
    with dial() as client:
        client.ask()
        client.send("response.create")
        item = client.until("response.done")["response"]["output"][0]
        for ms in (60_000, 500, 700, 0):
            client.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=ms)
            assert client.only("conversation.item.truncated")["audio_end_ms"] == ms
        client.send("conversation.item.retrieve", item_id=item["id"])
        assert client.only("conversation.item.retrieved")["item"]["content"][0]["transcript"] == ""


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty"),
        ({"type": "input_audio_buffer.append", "audio": "!"}, "invalid_audio"),
        ({"type": "input_audio_buffer.append", "audio": "AAAA"}, "invalid_audio"),
        ({"type": "response.cancel"}, "response_cancel_not_active"),
        ({"type": "conversation.item.truncate", "item_id": "x", "audio_end_ms": 1}, "item_truncate_invalid_item_id"),
        ({"type": "conversation.item.create"}, "invalid_value"),
        ({"type": "conversation.item.create", "item": {"type": "message", "role": "user"}}, "invalid_value"),
        ({"type": "conversation.item.create", "item": {"type": "function_call_output"}}, "tools_not_supported"),
        ({"type": "response.create", "response": {"tools": [{}]}}, "tools_not_supported"),
        ({"type": "response.create", "response": {"metadata": 3}}, "invalid_value"),
        ({"type": "transcription_session.update"}, "unknown_event"),
        ({"no": "type"}, "unknown_event"),
    ],
)
def test_mistakes_are_told_and_survived(dial, event, expected) -> None:
    with dial() as client:
        client.send(**{"kind": event.get("type"), **{k: v for k, v in event.items() if k != "type"}}, event_id="e1")
        error = client.only("error")["error"]
        assert (error["code"], error["event_id"]) == (expected, "e1")
        assert client.set()


@pytest.mark.parametrize("frame", ["{", "[]", "3", "", b"\x00\x01", "[" * 100_000])
def test_what_is_no_event_is_told_and_survived(dial, frame) -> None:
    with dial() as client:
        client.socket.send(frame)
        assert code(client) == "invalid_json"
        assert client.set()


def test_one_response_at_a_time(dial, make, wait) -> None:
    make.engine.stop_at = 5
    with dial() as client:
        client.ask()
        client.send("response.create")
        client.until("response.output_audio_transcript.delta")
        client.send("response.create")
        assert client.until("error")["error"]["code"] == "conversation_already_has_active_response"
        client.send("response.cancel")
        done = client.until("response.done")["response"]
        assert done["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
        wait(lambda: make.engine.num_cancelled == 1)
        client.send("response.cancel")
        assert client.only("error")["error"]["message"].startswith("Cancellation failed")


@pytest.mark.parametrize(
    ("text", "status", "reason"), [("cut", "incomplete", "max_output_tokens"), ("refuse me", "failed", None)]
)
def test_answers_that_end_otherwise(dial, text, status, reason) -> None:
    with dial() as client:
        client.ask(text)
        client.send("response.create")
        done = client.until("response.done")["response"]
        assert (done["status"], done["status_details"].get("reason")) == (status, reason)
        if status == "failed":
            assert done["status_details"]["error"]["code"] == "refused"
            assert done["output"] == []


def test_nothing_to_answer(dial) -> None:
    with dial() as client:
        client.send("response.create")
        error = client.until("response.done")["response"]["status_details"]["error"]
        assert error["code"] == "nothing_to_answer"


def test_clearing(dial, make) -> None:
    with dial() as client:
        client.speak(make.voice(1.0))
        client.only("input_audio_buffer.speech_started")
        client.send("input_audio_buffer.clear")
        client.only("input_audio_buffer.cleared")
        client.send("output_audio_buffer.clear")  # of WebRTC
        client.send("input_audio_buffer.commit")
        assert code(client) == "input_audio_buffer_commit_empty"


def test_nulls_are_defaults(dial, make) -> None:
    with dial() as client:
        client.ask()
        nothing = dict.fromkeys(("conversation", "instructions", "output_modalities", "metadata", "input", "tools"))
        client.send("response.create", response={**nothing, "audio": {"output": None}}, event_id=None)
        assert client.until("response.done")["response"]["status"] == "completed"
