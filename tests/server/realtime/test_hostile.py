"""Clients that mean harm, or are broken: what they send back and forth stays small, and so does what is kept of it."""

import base64
import io
import os
import threading
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from unmask_server.realtime import items
from unmask_server.realtime.events import MAX_ECHO
from unmask_server.realtime.limits import RealtimeLimits
from unmask_server.realtime.speech_in import MAX_CHUNKS, SpeechIn
from unmask_server.settings import Settings

LONG = "k" * 1_000_000


def picture(side: int) -> dict[str, str]:
    data = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(data, "PNG")
    return {"type": "input_image", "image_url": "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()}


@pytest.mark.parametrize(
    "event",
    [
        {"type": LONG},
        {"type": "nothing", "event_id": LONG},
        {"type": "session.update", "session": {"x_unmask": {LONG: 1}}},
        {"type": "session.update", "session": {"audio": {"input": {"format": {"type": LONG}}}}},
        {"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"type": LONG}}}}},
        {"type": "session.update", "session": {"audio": {"output": {"voice": LONG}}}},
        {"type": "session.update", "session": {"output_modalities": [LONG]}},
        {"type": "response.create", "response": {"metadata": {LONG: "x"}}},
        {"type": "response.create", "response": {"metadata": {"x": LONG}}},
        {"type": "conversation.item.create", "item": {"type": LONG}},
        {"type": "conversation.item.create", "item": {"type": "message", "role": LONG, "content": []}},
        {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [{"type": LONG}]}},
        {"type": "conversation.item.retrieve", "item_id": LONG},
        {"type": "response.cancel", "response_id": LONG},
    ],
)
def test_an_error_never_repeats_all_that_was_sent(dial, event) -> None:
    with dial() as client:
        client.send(**{"kind": event["type"], **{k: v for k, v in event.items() if k != "type"}})
        error = client.only("error")["error"]
        assert sum(len(str(value)) for value in error.values()) < 3 * MAX_ECHO
        assert client.set()


def test_an_id_comes_back_whole_or_not_at_all(dial) -> None:
    with dial() as client:
        for event_id, told in (("e" * MAX_ECHO, "e" * MAX_ECHO), ("e" * (MAX_ECHO + 1), None)):
            client.send("nothing", event_id=event_id)
            assert client.only("error")["error"]["event_id"] == told


def test_pieces_of_no_length_take_no_room() -> None:
    """In push to talk nothing ever leaves the buffer by itself."""
    rng = np.random.default_rng(0)
    pieces = [rng.integers(-9, 9, size, np.int16) for size in rng.integers(0, 3, 5000)]
    buffer = SpeechIn(8000)
    for piece in pieces:
        buffer.append(piece)
    assert len(buffer._chunks) <= MAX_CHUNKS + 1
    whole = np.concatenate(pieces)
    assert buffer.num_samples == len(whole)
    assert np.array_equal(buffer.until(100), whole[:800])
    assert np.array_equal(buffer.take(100), whole[:800])
    assert np.array_equal(buffer.take(), whole[800:])
    assert buffer.num_samples == 0


def test_who_speaks_is_noticed_while_pictures_take_all_other_threads(server, make, monkeypatch) -> None:
    over = threading.Event()
    read = items._read_contents

    def slowly(*arguments):
        over.wait(60)
        return read(*arguments)

    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # five threads for everything
    monkeypatch.setattr(items, "_read_contents", slowly)
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
    with ExitStack() as stack:
        stack.callback(over.set)
        busy = [stack.enter_context(server.dial(settings=Settings(max_media_threads=64))) for _ in range(7)]
        for client in busy:
            client.send("conversation.item.create", item=message)
        client = stack.enter_context(server.dial())
        client.speak(make.voice(3.0), chunk_s=3.0)
        client.only("input_audio_buffer.speech_started")
        assert not over.is_set()


def test_pictures_of_a_message_share_one_limit(dial) -> None:
    """A picture of one colour takes 90 KB a message and 96 MB of memory."""
    media = replace(Settings().media, max_pixels=3 * 64 * 64)
    with dial(settings=Settings(media=media)) as client:
        client.ask(content=[picture(64)] * 3)
        item = {"type": "message", "role": "user", "content": [picture(64)] * 4}
        client.send("conversation.item.create", item=item)
        assert client.only("error")["error"]["code"] == "image_too_large"


def test_what_a_response_is_given_is_bounded_like_a_conversation(dial, make) -> None:
    limits = RealtimeLimits(max_kept_images=2, max_kept_audio_s=1.0)
    sound = {"type": "input_audio", "audio": base64.b64encode(bytes(2 * 24_000 * 3 // 4)).decode()}  # 0.75 s
    asked = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "and now"}]}
    given = [{"type": "message", "role": "user", "content": [part]} for part in (*[picture(32)] * 5, sound, sound)]
    with dial(settings=Settings(realtime=limits)) as client:
        wanted = {"conversation": "none", "output_modalities": ["text"], "input": [*given, asked]}
        make.engine.bundle.presets = tuple(
            replace(preset, inputs=("text", "image")) if preset.task == "chat" else preset
            for preset in make.engine.bundle.presets
        )
        client.send("response.create", response=wanted)
        assert client.until("response.done")["response"]["status"] == "completed"
    (request,) = make.engine.requests
    media = [part for turn in request.history for part in turn.media]
    assert len(request.parts) == 2  # the latest picture is asked about
    assert [type(part).__name__ for part in media] == ["ImagePart", "AudioPart"]
