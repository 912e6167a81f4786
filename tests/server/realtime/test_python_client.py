"""Our own client in dialogues with this server."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from unmask_client import APIError, AsyncClient, Audio, Client, Image

PICTURE = Image.of(np.zeros((8, 8, 3), np.uint8))


@pytest.fixture
def url(start, wait, talking):
    with start(lambda: talking) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        yield str(client.base_url)


def test_spoken_turns(url: str, make) -> None:
    question = Audio.from_samples(make.voice(0.5), 24_000)
    with Client(url) as client, client.realtime(instructions="Be brief.") as session:
        heard = session.ask(question)
        seen = session.ask(PICTURE, question)
    for reply in (heard, seen):
        assert reply.text == make.answer
        assert reply.audio is not None
        assert np.abs(reply.audio.samples()[0]).max() > 0.4
        assert reply.audio.duration_s == pytest.approx(1.0, abs=0.05)
    assert [request.task for request in make.engine.requests] == ["sqa", "svqa"]


def test_words_a_picture_and_a_recording_reach_the_model_together(url: str, make) -> None:
    question = Audio.from_samples(make.voice(0.5), 24_000)
    with Client(url) as client, client.realtime() as session:
        with pytest.raises(APIError, match="no answer to audio \\+ image \\+ text"):
            session.ask("look", PICTURE, question)
        assert not make.engine.requests
        (spoken,) = (preset for preset in make.engine.bundle.presets if preset.task == "svqa")
        mixed = replace(spoken, task="mixed", inputs=("text", "image", "audio"))
        make.engine.bundle.presets = (*make.engine.bundle.presets, mixed)
        session.ask("look", PICTURE, question)
    (request,) = make.engine.requests
    words, picture, heard = request.parts
    assert (request.task, words.text, picture.pixels.shape) == ("mixed", "look", (8, 8, 3))
    assert len(heard.samples) == 12_000


def test_with_turn_detection_the_server_hears_the_end(url: str, make) -> None:
    pcm = np.concatenate([make.voice(0.5), make.quiet(1.0)]).astype("<i2").tobytes()
    with Client(url) as client, client.realtime(turn_detection=True) as session:
        session.append(pcm)
        kinds = []
        for event in session.events():
            kinds.append(event["type"])
            if kinds[-1] == "response.done":
                break
    assert "input_audio_buffer.speech_stopped" in kinds
    assert "response.output_audio.delta" in kinds


def test_a_written_turn_awaited(url: str, make) -> None:
    async def talk() -> None:
        async with AsyncClient(url) as client, client.realtime(output="text") as session:
            reply = await session.ask("hello")
            assert (reply.text, reply.audio) == (make.answer, None)
            with pytest.raises(APIError, match="refused"):
                await session.ask("refuse me")

    asyncio.run(talk())
