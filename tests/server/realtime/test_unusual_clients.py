"""Clients that are hostile, hurried or odd: what they do costs them an error or their connection, and nobody else."""

import base64
import json
import socket
import time
from contextlib import suppress
from dataclasses import replace

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from unmask_server.realtime.items import MS_PER_CHARACTER
from unmask_server.realtime.limits import MIB, RealtimeLimits
from unmask_server.settings import Settings

MESSAGE = {"type": "message", "role": "user"}


def port_of(client) -> int:
    port: int = client.socket.remote_address[1]
    return port


def error(client) -> dict:
    found: dict = client.until("error")["error"]
    return found


def test_fifty_who_come_and_go(dial, make, wait) -> None:
    """Politely, by hanging up, in the middle of an answer, without a word: all places are free again."""
    make.engine.stop_at = 5
    with dial() as first:
        url = f"ws://127.0.0.1:{port_of(first)}/v1/realtime"
        for number in range(50):
            with connect(url) as socket_:
                if number % 2:
                    content = [{"type": "input_text", "text": "hello"}]
                    socket_.send(
                        json.dumps({"type": "conversation.item.create", "item": {**MESSAGE, "content": content}})
                    )
                    socket_.send(json.dumps({"type": "response.create"}))
                if number % 3 == 0:
                    socket_.socket.shutdown(socket.SHUT_RDWR)  # without a word
        make.engine.stop_at = None
        metrics = f"http://127.0.0.1:{port_of(first)}/metrics"
        wait(lambda: "unmask:websocket_connections_active 1.0" in httpx.get(metrics, timeout=60).text)
        wait(lambda: not make.engine.running)
        first.ask()
        first.send("response.create")
        assert first.until("response.done")["response"]["status"] == "completed"


def test_a_message_that_is_too_long_is_refused_and_one_twice_as_long_ends_it(dial) -> None:
    with dial() as client:
        client.send("input_audio_buffer.append", audio="A" * (15 * MIB))
        assert error(client)["code"] == "input_audio_buffer_full"
        client.send("input_audio_buffer.append", audio="A" * (16 * MIB))
        assert error(client)["code"] == "message_too_large"
        client.socket.send(bytes(16 * MIB))
        assert error(client)["code"] == "invalid_json"
        assert client.set()
        with suppress(ConnectionClosed):
            client.send("input_audio_buffer.append", audio="A" * (33 * MIB))
            while True:
                client.event()
        assert client.socket.close_code in (1009, 1006)  # the reason may be lost while the client still sends


def test_a_slow_reader_is_told_why_it_is_put_out(dial) -> None:
    """It stops reading, is put out, and reads on."""
    limits = RealtimeLimits(max_unsent_bytes=200_000, flush_s=30.0)
    with dial(settings=Settings(realtime=limits)) as client:
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        narrow.connect(("127.0.0.1", port_of(client)))
        with dial(sock=narrow) as reader:
            content = [{"type": "input_text", "text": "x" * 190_000}]
            item = json.dumps({"type": "conversation.item.create", "item": {**MESSAGE, "content": content}})
            with suppress(ConnectionClosed):
                for _ in range(60):
                    reader.socket.send(item)
            with suppress(ConnectionClosed):
                while True:
                    reader.event()
            assert reader.socket.close_code == 1013
        assert client.set()  # others do not notice


def test_what_a_slow_reader_was_not_sent_was_not_said(dial, make) -> None:
    """It has more than three minutes of sound to read when it interrupts; the model remembers what was sent of it."""
    plain = make.engine.submit

    def submit(prepared, note=None, interactive=False):
        return plain(prepared, note and (lambda progress: note(replace(progress, text="word " * 4000))), interactive)

    make.engine.submit, make.engine.stop_at, make.engine.chunk_s = submit, 1, 200.0
    with dial(settings=Settings(realtime=RealtimeLimits(max_unsent_bytes=64 * MIB))) as client:
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        narrow.connect(("127.0.0.1", port_of(client)))
        with dial(sock=narrow) as reader:
            reader.listen()
            reader.speak(make.voice(0.5))
            reader.send("input_audio_buffer.commit")
            reader.send("response.create")
            reader.until("response.output_audio.delta")
            reader.send("response.cancel")
            (item,) = reader.until("response.done")["response"]["output"]
    heard_ms = len(reader.audio()) / 24
    assert 0 < heard_ms < 190_000
    said = item["content"][0]["transcript"]
    assert 0 <= heard_ms / MS_PER_CHARACTER - len(said) <= len("word ") + 1  # whole words


def test_texts_are_bounded_and_the_oldest_leave(dial) -> None:
    limits = RealtimeLimits(max_kept_characters=1000)
    with dial(settings=Settings(realtime=limits)) as client:
        for name in "abc":
            client.ask("x" * 400, id=name)
        client.send("conversation.item.retrieve", item_id="a")
        assert error(client)["code"] == "item_retrieve_invalid_item_id"
        client.send("conversation.item.retrieve", item_id="b")
        assert client.until("conversation.item.retrieved")
        content = [{"type": "input_text", "text": "x" * 150_000}] * 2
        client.send("conversation.item.create", item={**MESSAGE, "content": content})
        assert "200,000" in error(client)["message"]
        metadata = {str(i): "x" for i in range(17)}
        client.send("response.create", response={"metadata": metadata})
        assert error(client)["param"].startswith("response.metadata")


def test_pictures_are_bounded_by_their_pixels(dial, png) -> None:
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    picture = {"type": "input_image", "image_url": url}
    limits = RealtimeLimits(max_kept_pixels=1)
    with dial(settings=Settings(realtime=limits)) as client:
        client.send("conversation.item.create", item={**MESSAGE, "content": [picture] * 5})
        assert "4 pictures" in error(client)["message"]
        client.listen()
        client.ask(content=[picture])
        client.ask("what is this")
        client.send("response.create", response={"output_modalities": ["text"]})
        done = client.until("response.done")["response"]  # the latest picture is in view all the same
        assert (
            done["status_details"]["error"]["code"] == "modalities_unsupported"
        )  # the fake model answers no text there


def test_half_characters_never_reach_the_model(dial) -> None:
    with dial() as client:
        for text in ("\ud800", "fine \udfff"):
            client.send("conversation.item.create", item={**MESSAGE, "content": [{"type": "input_text", "text": text}]})
            assert "surrogate" in error(client)["message"]
        client.send("session.update", session={"instructions": "\ud800"})
        assert error(client)["param"] == "session.instructions"
        client.ask("an emoji is whole: \U0001f600")


def test_turns_to_be_written_down_are_bounded(dial, make) -> None:
    limits = RealtimeLimits(max_transcriptions=2)
    with dial(settings=Settings(realtime=limits)) as client:
        client.set(audio={"input": {"turn_detection": None, "transcription": {"model": "x"}}})
        plain, make.engine.step = make.engine.step, lambda: time.sleep(0.001) or []
        for _ in range(3):
            client.speak(make.voice(0.2))
            client.send("input_audio_buffer.commit")
        failed = client.until("conversation.item.input_audio_transcription.failed")
        assert failed["error"]["code"] == "too_many_transcriptions"
        make.engine.step = plain
        client.until("conversation.item.input_audio_transcription.completed")


def test_truncating_what_is_still_being_said(dial, make) -> None:
    """Some clients truncate first and cancel then."""
    make.engine.stop_at = 6
    with dial() as client:
        client.listen()
        client.speak(make.voice(0.5))
        client.send("input_audio_buffer.commit")
        client.send("response.create")
        while len(client.audio()) < 13_000:
            client.event()
        item_id = client.seen[-1]["item_id"]
        client.send("conversation.item.truncate", item_id=item_id, content_index=True, audio_end_ms=250)
        assert client.until("conversation.item.truncated")["content_index"] == 0
        client.send("response.cancel")
        said = client.until("response.done")["response"]["output"][0]["content"][0]["transcript"]
        client.send("conversation.item.retrieve", item_id=item_id)
        kept = client.until("conversation.item.retrieved")["item"]["content"][0]["transcript"]
        assert said.startswith(kept)
        assert len(kept) < len(said)


def test_truncating_before_the_first_sound(dial, make) -> None:
    make.engine.stop_at = 0
    with dial() as client:
        client.ask()
        client.send("response.create")
        client.until("response.content_part.added")
        client.send("response.cancel")
        item = client.until("response.done")["response"]["output"][0]
        for ms in (-1, 0, 10**30):
            client.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=ms)
            assert client.until("conversation.item.truncated")["audio_end_ms"] == max(ms, 0)


def test_who_comes_back_says_what_was_said(dial, make) -> None:
    """As LiveKit does when its connection breaks: the conversation so far as items, the model's words included."""
    with dial() as client:
        client.ask("who are you")
        client.send("response.create")
        said = client.until("response.done")["response"]["output"][0]["content"][0]["transcript"]
    with dial() as client:
        client.ask("who are you")
        client.ask(role="assistant", content=[{"type": "output_text", "text": said}])
        client.ask("what can you do")
        client.send("response.create", response={"output_modalities": ["text"]})
        assert client.until("response.done")["response"]["status"] == "completed"
        assert [turn.text for turn in make.engine.requests[-1].history] == ["who are you", make.answer]


def test_a_long_dialogue_keeps_its_latest_turns(dial, make) -> None:
    with dial() as client:
        for number in range(10):
            client.ask(f"{number} " + "x" * 1000)
        client.send("response.create", response={"output_modalities": ["text"]})
        client.until("response.done")
        assert [turn.text[0] for turn in make.engine.requests[-1].history] == ["4", "5", "6", "7", "8"]


def test_what_a_dialogue_measures(dial, make) -> None:
    with dial() as client:
        client.ask()
        client.send("response.create")
        client.until("response.done")
        page = httpx.get(f"http://127.0.0.1:{port_of(client)}/metrics", timeout=60).text
    for name in ("first_audio_seconds", "rtf", "underrun_seconds"):
        assert f"unmask:realtime_{name}_count 1.0" in page


@pytest.mark.parametrize("audio", ["AAA", "####", "AA==", None, 3, ["AAAA"], {"data": "AAAA"}, "AAAA\n", "ÄÄÄÄ"])
def test_what_is_no_sound_is_told_and_survived(dial, audio) -> None:
    with dial() as client:
        client.send("input_audio_buffer.append", audio=audio, event_id="mine")
        assert (
            error(client) | {"code": "invalid_audio", "event_id": "mine", "param": "audio"} == client.seen[-1]["error"]
        )
        assert client.set()


def test_frames_in_pieces_and_of_every_size(dial, make) -> None:
    """Sound cut anywhere makes the same turn."""
    with dial() as client:
        client.listen()
        sound = make.voice(0.5).tobytes()
        for start in range(0, len(sound), 34):
            piece = base64.b64encode(sound[start : start + 34]).decode()
            text = json.dumps({"type": "input_audio_buffer.append", "audio": piece})
            client.socket.send([text[:10], text[10:]])  # a fragmented message
        client.send("input_audio_buffer.append", audio="")
        client.send("input_audio_buffer.commit")
        client.send("response.create")
        assert client.until("response.done")["response"]["status"] == "completed"
        (heard,) = make.engine.requests[0].parts
        assert len(heard.samples) == 12_000
