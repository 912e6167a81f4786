"""The four client libraries as they are, over a real socket: with a model of known words and, slowly, the built-in one.

What each of them hears is held against what the engine has said. All but OpenAI's own come with the extra `clients`.
"""

import asyncio
import base64
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosedError

from unmask_engine.media import resample
from unmask_engine.request import Generation, GenerationRequest, TextPart, Turn

# Other people's libraries deprecate what they like.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

PATIENCE_S = 300.0
SLOW_STEP_S = 0.05
QUIET = np.zeros(24_000, np.int16)


@dataclass
class Talker:
    """A model behind a server, what it is asked, and what it has answered."""

    engine: Any
    url: str  # http://host:port
    question: NDArray[np.int16]
    answers: list[Generation] = field(default_factory=list)
    linger: Callable[[], None] = lambda: None  # answers are not finished any more
    go_on: Callable[[], None] = lambda: None

    @property
    def turn(self) -> NDArray[np.int16]:
        """The question, and silence enough to end it."""
        return np.concatenate([self.question, QUIET])

    def check(self, text: str, seconds: float) -> None:
        """That the client heard the last answer, all of it; one to text is spoken by requests of its own."""
        spoken = 0.0
        for answer in reversed(self.answers):
            spoken += 0.0 if answer.audio is None else len(answer.audio.samples) / answer.audio.sample_rate
            if answer.text is not None:
                break
        assert text.split() == (answer.text or "").split()
        assert seconds == pytest.approx(spoken, abs=0.02)
        assert text
        assert seconds > 0.1


@pytest.fixture(params=["known", pytest.param("mini", marks=pytest.mark.slow)])
def talker(request, serve, talking, make):
    engine, question = (talking, make.voice(1.0)) if request.param == "known" else mini()
    with serve(engine).dial() as client:
        host, port = client.socket.remote_address[:2]
    talker = Talker(engine, f"http://{host}:{port}", question)
    answer, step = engine.answer, engine.step

    def noted(running: Any) -> Generation:
        generation: Generation = answer(running)
        if generation.task != "asr":
            talker.answers.append(generation)
        return generation

    def slow_step() -> Any:
        time.sleep(SLOW_STEP_S)
        return step()

    engine.answer = noted
    if request.param == "known":
        talker.linger = lambda: setattr(talking, "stop_at", 6)
        talker.go_on = lambda: setattr(talking, "stop_at", None)
    else:
        talker.linger = lambda: setattr(engine, "step", slow_step)
        talker.go_on = lambda: setattr(engine, "step", step)
    return talker


def mini() -> tuple[Any, NDArray[np.int16]]:
    """The built-in model, and a question in its own voice."""
    from unmask_engine.engine import Engine  # takes seconds

    engine = Engine.load("unmask-mini")
    (said,) = engine.generate([GenerationRequest((TextPart("what color is the sky"),), ("audio",))])
    assert said.audio is not None
    return engine, np.rint(resample(said.audio, 24_000).samples * 32767).astype(np.int16)


def within_patience(talk: Any) -> None:
    asyncio.run(asyncio.wait_for(talk, PATIENCE_S))


def as_base64(samples: NDArray[np.int16]) -> str:
    return base64.b64encode(samples.tobytes()).decode()


def openai_reply(connection: Any) -> tuple[str, float, Any]:
    text, seconds = "", 0.0
    while (event := connection.recv()).type != "response.done":
        assert event.type != "error", event
        if event.type == "response.output_audio_transcript.delta":
            text += event.delta
        elif event.type == "response.output_audio.delta":
            seconds += len(base64.b64decode(event.delta)) / 48_000
    return text, seconds, event.response


def test_openai(talker, png) -> None:
    """A detected turn, a truncation; push to talk; a question about a picture."""
    picture = {"type": "input_image", "image_url": "data:image/png;base64," + base64.b64encode(png).decode()}
    with (
        openai.OpenAI(base_url=f"{talker.url}/v1", api_key="any") as client,
        client.realtime.connect(model="gpt-realtime") as connection,
    ):
        assert connection.recv().type == "session.created"
        audio = {"input": {"turn_detection": {"type": "server_vad"}, "transcription": {"model": "whisper-1"}}}
        connection.session.update(session={"type": "realtime", "audio": audio})
        assert connection.recv().type == "session.updated"
        connection.input_audio_buffer.append(audio=as_base64(talker.turn))
        text, seconds, response = openai_reply(connection)
        talker.check(text, seconds)
        connection.conversation.item.truncate(item_id=response.output[0].id, content_index=0, audio_end_ms=300)
        while (event := connection.recv()).type != "conversation.item.truncated":
            assert event.type != "error", event
        assert event.item_id == response.output[0].id

        connection.session.update(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        connection.conversation.item.create(item={"type": "message", "role": "user", "content": [picture]})
        connection.input_audio_buffer.append(audio=as_base64(talker.question))
        connection.input_audio_buffer.commit()
        connection.response.create()
        text, seconds, response = openai_reply(connection)
        talker.check(text, seconds)
        assert talker.answers[-1].task == "svqa"
        assert response.usage.input_token_details.audio_tokens > 0


def test_openai_comes_back_after_a_broken_connection(talker, wait) -> None:
    """It breaks in the middle of an answer; a new session is told what was said until then, and goes on."""
    user = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "who are you"}]}
    heard = ""
    with openai.OpenAI(base_url=f"{talker.url}/v1", api_key="any") as client:
        talker.linger()
        with client.realtime.connect(model="gpt-realtime") as connection:
            connection.input_audio_buffer.append(audio=as_base64(talker.turn))
            while (event := connection.recv()).type != "response.output_audio.delta":
                heard += event.delta if event.type == "response.output_audio_transcript.delta" else ""
            connection._connection.socket.shutdown(socket.SHUT_RDWR)
            with pytest.raises(ConnectionClosedError):
                openai_reply(connection)
        assert heard
        for gauge in ("websocket_connections_active", "num_requests_running"):  # nothing of it is left
            wait(lambda line=f"unmask:{gauge} 0.0": line in httpx.get(f"{talker.url}/metrics", timeout=60).text)
        talker.go_on()
        with client.realtime.connect(model="gpt-realtime") as connection:
            connection.session.update(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
            said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": heard}]}
            for item in (user, said):
                connection.conversation.item.create(item=item)
            connection.input_audio_buffer.append(audio=as_base64(talker.question))
            connection.input_audio_buffer.commit()
            connection.response.create()
            text, seconds, response = openai_reply(connection)
            talker.check(text, seconds)
            assert response.status == "completed"
    for request in getattr(talker.engine, "requests", ())[1:]:
        assert request.history == (Turn("user", "who are you"), Turn("assistant", heard))


def test_openai_agents(talker) -> None:
    """With its defaults, and a barge-in: semantic VAD, and every event validated."""
    realtime = pytest.importorskip("agents.realtime")

    async def talk() -> None:
        agent = realtime.RealtimeAgent(name="guide", instructions="be kind")
        url = f"{talker.url.replace('http', 'ws')}/v1/realtime?model=any"
        session = await realtime.RealtimeRunner(agent).run(model_config={"api_key": "-", "url": url})
        talker.linger()
        first, seconds = True, 0.0  # of the second answer
        async with session:
            await session.send_audio(talker.turn.tobytes())
            async for event in session:
                assert event.type != "error", event.error
                if event.type == "audio_interrupted":
                    assert not interrupted
                    interrupted.append(True)
                    talker.go_on()
                    # In the stream's time this speaker went on 0.4 s after the first turn: the server waits longer now.
                    await session.send_audio(np.tile(QUIET, 4).tobytes())
                elif event.type == "audio" and interrupted:
                    seconds += len(event.audio.data) / 48_000
                elif event.type == "audio" and first:
                    first = False
                    await session.send_audio(talker.question.tobytes())
                elif event.type == "audio_end" and seconds:
                    talker.check(talker.answers[-1].text or "", seconds)
                    return

    interrupted: list[bool] = []
    within_patience(talk())
    assert interrupted


def test_livekit_agents(talker) -> None:
    """With its defaults: a detected turn, a truncation, a reply to instructions, a replayed history."""
    plugin = pytest.importorskip("livekit.plugins.openai.realtime")
    import aiohttp
    from livekit import rtc

    problems: list[Any] = []

    async def heard(generation: Any) -> tuple[str, str, float]:
        async for message in generation.message_stream:
            text = "".join([str(piece) async for piece in message.text_stream])
            seconds = sum([piece.duration async for piece in message.audio_stream])
            return message.message_id, text, seconds
        raise AssertionError("no message")

    async def talk() -> None:
        async with aiohttp.ClientSession() as http:
            session = plugin.RealtimeModel(base_url=f"{talker.url}/v1", api_key="-", http_session=http).session()
            session.on("error", problems.append)
            generations: asyncio.Queue[Any] = asyncio.Queue()
            session.on("generation_created", generations.put_nowait)
            for chunk in np.array_split(talker.turn, 20):
                session.push_audio(rtc.AudioFrame(chunk.tobytes(), 24_000, 1, len(chunk)))
            item_id, text, seconds = await heard(await generations.get())
            talker.check(text, seconds)
            session.truncate(message_id=item_id, modalities=["audio"], audio_end_ms=100, audio_transcript="")
            _, text, seconds = await heard(await session.generate_reply(instructions="hello"))
            talker.check(text, seconds)
            history = session.chat_ctx.copy()
            history.add_message(role="user", content="thank you")
            await session.update_chat_ctx(history)
            _, text, seconds = await heard(await session.generate_reply())
            talker.check(text, seconds)
            await session.aclose()

    within_patience(talk())
    assert not problems


def test_pipecat(talker) -> None:
    """In a pipeline: a detected turn, a barge-in with the truncation that follows it, another turn."""
    service = pytest.importorskip("pipecat.services.openai.realtime.llm")
    from pipecat.frames import frames
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
    from pipecat.workers.runner import WorkerRunner

    def recorded(samples: NDArray[np.int16]) -> Any:
        return frames.InputAudioRawFrame(audio=samples.tobytes(), sample_rate=24_000, num_channels=1)

    class Ear(FrameProcessor):
        """Interrupts the first answer, and hears out the second."""

        def __init__(self) -> None:
            super().__init__()
            self.text, self.seconds, self.interruptions = "", 0.0, 0

        async def process_frame(self, frame: Any, direction: Any) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, frames.LLMFullResponseStartFrame):
                self.text, self.seconds = "", 0.0
            elif isinstance(frame, frames.LLMTextFrame):
                self.text += frame.text
            elif isinstance(frame, frames.TTSAudioRawFrame):
                if not self.seconds and not self.interruptions:
                    self.interruptions = 1
                    await worker.queue_frame(recorded(talker.question))
                self.seconds += len(frame.audio) / 48_000
            elif isinstance(frame, frames.LLMFullResponseEndFrame) and self.interruptions == 1:
                self.interruptions = 2
                talker.go_on()
                await worker.queue_frame(recorded(QUIET))
            elif isinstance(frame, frames.LLMFullResponseEndFrame):
                await worker.queue_frame(frames.EndFrame())
            await self.push_frame(frame, direction)

    problems: list[Any] = []

    class Problems(FrameProcessor):
        async def process_frame(self, frame: Any, direction: Any) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, frames.ErrorFrame) and direction == FrameDirection.UPSTREAM:
                problems.append(frame.error)
                await worker.queue_frame(frames.EndFrame())
            await self.push_frame(frame, direction)

    async def talk() -> None:
        nonlocal worker
        llm = service.OpenAIRealtimeLLMService(api_key="-", base_url=f"{talker.url.replace('http', 'ws')}/v1/realtime")
        worker = PipelineWorker(Pipeline([Problems(), llm, ear]), cancel_on_idle_timeout=False)
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        talker.linger()
        await worker.queue_frame(recorded(talker.turn))
        await runner.run()

    worker: Any = None
    ear = Ear()
    within_patience(talk())
    assert not problems
    assert ear.interruptions == 2
    talker.check(ear.text, ear.seconds)


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
