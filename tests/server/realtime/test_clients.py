"""Clients as they are: OpenAI's own, and the agent frameworks where they are installed (they do not go together)."""

import asyncio
import base64
import json

import numpy as np
import openai
import pytest


def test_the_official_client(dial, make) -> None:
    with dial() as other:
        host, port = other.socket.remote_address[:2]
        client = openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="any")
        with client.realtime.connect(model="gpt-realtime") as connection:
            assert connection.recv().type == "session.created"
            vad = {"type": "server_vad", "silence_duration_ms": 300}
            audio = {"input": {"turn_detection": vad, "transcription": {"model": "whisper-1"}}}
            connection.session.update(session={"type": "realtime", "audio": audio})
            assert connection.recv().type == "session.updated"
            sound = np.concatenate([make.voice(0.5), make.quiet(0.5)]).tobytes()
            connection.input_audio_buffer.append(audio=base64.b64encode(sound).decode())
            heard, seconds = "", 0.0
            for event in connection:
                if event.type == "response.output_audio_transcript.delta":
                    heard += event.delta
                elif event.type == "response.output_audio.delta":
                    seconds += len(base64.b64decode(event.delta)) / 48_000
                elif event.type == "response.done":
                    break
            assert heard == make.answer
            assert seconds == pytest.approx(1.0, abs=0.01)
            item = event.response.output[0]
            connection.conversation.item.truncate(item_id=item.id, content_index=0, audio_end_ms=300)
            while (event := connection.recv()).type != "conversation.item.truncated":
                pass
            assert event.item_id == item.id
        client.close()


def test_events_are_those_that_pipecat_reads(dial, make) -> None:
    events = pytest.importorskip("pipecat.services.openai.realtime.events")
    make.engine.stop_at = 6
    with dial() as client:
        noise = {"type": "near_field"}
        client.set(audio={"input": {"transcription": {"model": "whisper-1"}, "noise_reduction": noise}})
        client.speak(np.concatenate([make.voice(1.0), make.quiet(0.6)]))
        client.until("response.output_audio.delta")
        client.speak(make.voice(0.5))
        item = client.until("response.done")["response"]["output"][0]
        client.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=90_000)
        client.send("conversation.item.retrieve", item_id=item["id"])
        client.until("conversation.item.retrieved")
        client.send("response.cancel")
        client.until("error")
        for event in client.seen:
            assert events.parse_server_event(json.dumps(event)).type == event["type"]


def test_openai_agents(dial, make) -> None:
    """With its defaults, a barge-in included: semantic VAD, and every event validated."""
    realtime = pytest.importorskip("agents.realtime")
    make.engine.stop_at = 6
    kinds = []

    async def talk(url: str) -> None:
        agent = realtime.RealtimeAgent(name="guide", instructions="be kind")
        session = await realtime.RealtimeRunner(agent).run(model_config={"api_key": "-", "url": url})
        async with session:
            await session.send_audio(np.concatenate([make.voice(1.0), make.quiet(1.0)]).tobytes())
            async for event in session:
                kinds.append(event.type)
                assert event.type != "error", event.error
                if event.type == "audio" and kinds.count("audio") == 1:
                    await session.send_audio(make.voice(0.5).tobytes())
                if event.type == "audio_interrupted":
                    make.engine.stop_at = None
                    await session.send_audio(make.quiet(1.0).tobytes())
                if event.type == "audio_end" and "audio_interrupted" in kinds:
                    break

    with dial() as client:
        host, port = client.socket.remote_address[:2]
        asyncio.run(asyncio.wait_for(talk(f"ws://{host}:{port}/v1/realtime?model=any"), 20))


def test_livekit_agents(dial, make) -> None:
    """With its defaults: a detected turn, a reply to instructions, a replayed history, a truncation."""
    plugin = pytest.importorskip("livekit.plugins.openai.realtime")
    import aiohttp
    from livekit import rtc

    problems = []

    def frame(samples) -> rtc.AudioFrame:
        return rtc.AudioFrame(samples.tobytes(), 24_000, 1, len(samples))

    async def heard(generation) -> tuple[str, str, float]:
        async for message in generation.message_stream:
            text = "".join([str(piece) async for piece in message.text_stream])
            seconds = sum([piece.duration async for piece in message.audio_stream])
            return message.message_id, text, seconds
        raise AssertionError("no message")

    async def talk(url: str) -> None:
        async with aiohttp.ClientSession() as http:
            session = plugin.RealtimeModel(base_url=url, api_key="-", http_session=http).session()
            session.on("error", problems.append)
            generations: asyncio.Queue = asyncio.Queue()
            session.on("generation_created", generations.put_nowait)
            for chunk in np.array_split(np.concatenate([make.voice(1.0), make.quiet(1.0)]), 20):
                session.push_audio(frame(chunk))
            item_id, text, seconds = await heard(await generations.get())
            assert text.split() == make.answer.split()
            assert seconds == pytest.approx(1.0, abs=0.01)
            session.truncate(message_id=item_id, modalities=["audio"], audio_end_ms=500, audio_transcript="one two")
            _, text, _ = await heard(await session.generate_reply(instructions="greet"))
            assert text.split() == make.answer.split()
            history = session.chat_ctx.copy()
            history.add_message(role="user", content="what did you say")
            await session.update_chat_ctx(history)
            _, text, _ = await heard(await session.generate_reply())
            assert text.split() == make.answer.split()
            await session.aclose()

    with dial() as client:
        host, port = client.socket.remote_address[:2]
        asyncio.run(asyncio.wait_for(talk(f"http://{host}:{port}/v1"), 30))
    assert not problems
