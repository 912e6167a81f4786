"""A model that talks in known words and tones, and a client that holds every event against OpenAI's own types."""

import base64
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from socket import create_server
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from openai.types.realtime import RealtimeServerEvent
from pydantic import BaseModel, TypeAdapter
from websockets.sync.client import ClientConnection, connect

from unmask_engine.preset import CanvasRule, Message, Preset
from unmask_engine.request import (
    AudioPart,
    Generation,
    GenerationRequest,
    Progress,
    RequestError,
    TextPart,
    Timings,
    Tokens,
    Usage,
)
from unmask_engine.work import Work
from unmask_server.app import create_app
from unmask_server.bridge import EngineThread, GenerationEngine
from unmask_server.errors import ServerError
from unmask_server.http_server import Server
from unmask_server.realtime import vad
from unmask_server.settings import Settings

RATE = 22050
CHUNK_S = 0.1  # of speech a step
STEPS = 10
ANSWER = "one two three four five six seven eight nine ten"
WAIT_S = 60.0  # for what takes a moment, on a machine that is busy with other things

SYSTEM = (Message("system", "Answer."),)
PRESETS = tuple(
    Preset(
        task,
        inputs,
        outputs,
        (Message("system", "Answer."),) if "audio" in inputs else (),
        CanvasRule(tokens=20),
        dialogue=True,
    )
    for task, inputs, outputs in (
        ("asr", ("audio",), ("text",)),
        ("sqa", ("audio",), ("text", "audio")),
        ("svqa", ("audio", "image"), ("text", "audio")),
        ("chat", ("text",), ("text",)),
        ("tts", ("text",), ("audio",)),
    )
)


@dataclass(eq=False)
class Talk:
    request: GenerationRequest
    on_progress: Callable[[Progress], None] | None
    error: Exception | None = None
    step: int = 0


@dataclass
class TalkingEngine:
    """Says ANSWER in STEPS steps, `chunk_s` of tone each; `stop_at` is where it waits."""

    name: str = "fake"
    bundle: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(presets=PRESETS))
    requests: list[GenerationRequest] = field(default_factory=list)
    running: list[Talk] = field(default_factory=list)
    num_cancelled: int = 0

    stop_at: int | None = None  # step
    chunk_s: float = CHUNK_S

    @property
    def work(self) -> Work:
        return Work(0, 0, len(self.running))

    def probe(self) -> None:
        """Never lost."""

    def prepare(self, request: GenerationRequest, waited_ms: float = 0.0) -> GenerationRequest:
        if TextPart("refuse me") in request.parts:
            raise RequestError("refused", code="refused")
        return request

    def submit(
        self,
        prepared: GenerationRequest,
        on_progress: Callable[[Progress], None] | None = None,
        interactive: bool = False,
    ) -> Talk:
        self.requests.append(prepared)
        self.running.append(Talk(prepared, on_progress))
        return self.running[-1]

    def cancel(self, talk: Talk) -> None:
        self.running.remove(talk)
        self.num_cancelled += 1

    def step(self) -> list[Talk]:
        time.sleep(0.001)
        for talk in self.running:
            if talk.step == self.stop_at and talk.request.task != "asr":
                continue
            talk.step += 1
            if talk.on_progress is not None:
                talk.on_progress(_progress(talk))
        left = [talk for talk in self.running if talk.step >= STEPS]
        self.running = [talk for talk in self.running if talk not in left]
        return left

    def speak(self, talk: Talk, codes: Sequence[int]) -> AudioPart:
        return AudioPart(_tone(self.chunk_s), RATE)

    def answer(self, talk: Talk) -> Generation:
        request = talk.request
        audio = AudioPart(_tone(STEPS * self.chunk_s), RATE) if "audio" in request.outputs else None
        return Generation(
            task=request.task,
            token_ids=(),
            confidence=(),
            text=ANSWER if "text" in request.outputs else None,
            audio=audio,
            image=None,
            truncated=TextPart("cut") in request.parts,
            usage=Usage({"text": 5, "audio": 7}, {"text": 3, "audio": 2}, steps=2, forward_passes=2),
            timings=Timings(1.0, 2.0, 3.0),
        )


def _tone(seconds: float) -> NDArray[np.float32]:
    return np.sin(np.arange(int(seconds * RATE)) / 20, dtype=np.float32) / 2


def _progress(talk: Talk) -> Progress:
    nothing = Tokens((), (), ())
    text = " ".join(ANSWER.split()[: talk.step]) if "text" in talk.request.outputs else None
    codes = tuple(range(talk.step)) if "audio" in talk.request.outputs else ()
    return Progress(talk.step, STEPS, talk.step, STEPS, nothing, nothing, text, codes, ())


EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
# What OpenAI's server sends and its types leave out, and the fields that are ours.
UNDECLARED = {"session.id", "session.object", "session.expires_at", "session.x_unmask", "x_unmask", "start_time"}


def _undeclared(value: Any, where: str = "") -> Iterator[str]:
    """The fields of an event that no type of OpenAI's has."""
    if isinstance(value, BaseModel):
        for name in value.model_extra or {}:
            yield f"{where}{name}"
        for name in type(value).model_fields:
            yield from _undeclared(getattr(value, name), f"{where}{name}.")
    elif isinstance(value, list):
        for each in value:
            yield from _undeclared(each, where)


@dataclass
class Client:
    """What a voice client does, one event at a time."""

    socket: ClientConnection
    seen: list[dict[str, Any]] = field(default_factory=list)

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def event(self, timeout: float = WAIT_S) -> dict[str, Any]:
        """The next one, which must be one of OpenAI's."""
        text = self.socket.recv(timeout)
        assert len(text) < 512 * 1024  # what Open WebUI takes
        event: dict[str, Any] = json.loads(text)
        told = EVENT.validate_json(text, strict=True)
        assert told.type == event["type"]
        assert set(_undeclared(told)) <= UNDECLARED
        assert event["event_id"]
        self.seen.append(event)
        return event

    def until(self, kind: str) -> dict[str, Any]:
        while (event := self.event())["type"] != kind:
            pass
        return event

    def only(self, kind: str) -> dict[str, Any]:
        event = self.event()
        assert event["type"] == kind, event
        return event

    def kinds(self, start: int = 0) -> list[str]:
        """The types so far, repeated deltas as one."""
        kinds: list[str] = []
        for event in self.seen[start:]:
            if not (event["type"].endswith(".delta") and event["type"] in kinds[-2:]):
                kinds.append(event["type"])
        return kinds

    def set(self, **session: Any) -> dict[str, Any]:
        self.send("session.update", session={"type": "realtime", **session})
        return self.only("session.updated")["session"]

    def listen(self, **turn_detection: Any) -> None:
        """Sets turn detection; none is push to talk."""
        self.set(audio={"input": {"turn_detection": turn_detection or None}})

    def speak(self, samples: NDArray[np.int16], chunk_s: float = 0.1) -> None:
        size = int(24_000 * chunk_s)
        for start in range(0, len(samples), size):
            data = samples[start : start + size].astype("<i2").tobytes()
            self.send("input_audio_buffer.append", audio=base64.b64encode(data).decode())

    def ask(self, text: str = "hello", **item: Any) -> str:
        content = [{"type": "input_text", "text": text}]
        self.send("conversation.item.create", item={"type": "message", "role": "user", "content": content, **item})
        item_id: str = self.until("conversation.item.added")["item"]["id"]
        self.only("conversation.item.done")
        return item_id

    def audio(self, start: int = 0) -> NDArray[np.int16]:
        """The model's sound so far."""
        deltas = [e["delta"] for e in self.seen[start:] if e["type"] == "response.output_audio.delta"]
        return np.frombuffer(b"".join(map(base64.b64decode, deltas)), "<i2")


def voice(seconds: float) -> NDArray[np.int16]:
    """What the fake detector takes for speech."""
    return (10_000 * np.sin(np.arange(int(24_000 * seconds)) / 10)).astype(np.int16)


def quiet(seconds: float) -> NDArray[np.int16]:
    return np.zeros(int(24_000 * seconds), np.int16)


@pytest.fixture(autouse=True)
def loudness(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of Silero: what is loud is speech. Slow tests hear with Silero itself."""
    if request.node.get_closest_marker("slow"):
        return
    monkeypatch.setattr(vad, "silero", lambda: lambda frame: 0.9 if np.abs(frame).mean() > 0.05 else 0.02)


@pytest.fixture
def talking() -> TalkingEngine:
    return TalkingEngine()


class RunningServer:
    """Starts with the first session; `settings` are those of that."""

    def __init__(self, engine: GenerationEngine) -> None:
        self._engine = engine
        self._stack = ExitStack()
        self._url: str | None = None

    def close(self) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Of its pages; starts it."""
        self._url = self._url or self._start(Settings())
        return self._url.replace("ws", "http", 1)

    def drain(self) -> None:
        self._server.handle_exit(signal.SIGTERM, None)

    @contextmanager
    def dial(self, query: str = "?model=any", settings: Settings | None = None, **options: Any) -> Iterator[Client]:
        if self._url is None:
            self._url = self._start(settings or Settings())
        with connect(f"{self._url}/v1/realtime{query}", max_size=None, open_timeout=WAIT_S, **options) as socket:
            client = Client(socket)
            client.only("session.created")
            yield client

    def _start(self, settings: Settings) -> str:
        app = create_app(lambda: self._engine, settings)
        self._server = Server(app, settings)
        listener = self._stack.enter_context(create_server(("127.0.0.1", 0)))
        thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(setattr, self._server, "should_exit", True)
        deadline = time.monotonic() + WAIT_S
        while not (self._server.started and _is_loaded(app.state.bridge)):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return f"ws://127.0.0.1:{listener.getsockname()[1]}"


def _is_loaded(bridge: EngineThread) -> bool:
    try:
        return bridge.engine is not None
    except ServerError:
        return False


@pytest.fixture
def serve() -> Iterator[Callable[[GenerationEngine], RunningServer]]:
    """A server for any engine."""
    with ExitStack() as stack:
        yield lambda engine: stack.enter_context(closing(RunningServer(engine)))


@pytest.fixture
def server(serve: Callable[[GenerationEngine], RunningServer], talking: TalkingEngine) -> RunningServer:
    return serve(talking)


@pytest.fixture
def dial(server: RunningServer) -> Callable[..., AbstractContextManager[Client]]:
    """Opens a session."""
    return server.dial


@pytest.fixture
def make(talking: TalkingEngine) -> SimpleNamespace:
    """What the tests talk with."""
    return SimpleNamespace(engine=talking, answer=ANSWER, voice=voice, quiet=quiet)
