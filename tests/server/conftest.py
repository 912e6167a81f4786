"""A server with a fake engine behind a real socket."""

import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from unmask_engine.media import write_audio, write_image
from unmask_engine.request import (
    AudioPart,
    Generation,
    GenerationRequest,
    ImagePart,
    Progress,
    RequestError,
    TextPart,
    TextToken,
    Timings,
    Tokens,
    Usage,
    Word,
)
from unmask_engine.work import Work
from unmask_server.app import create_app
from unmask_server.http_server import Server
from unmask_server.settings import Settings

WAIT_S = 60.0  # for what takes a moment, on a machine that is busy with other things
TONE = np.sin(np.arange(2205) / 20, dtype=np.float32) / 2


@dataclass(eq=False)
class FakeRunning:
    request: GenerationRequest
    on_progress: Callable[[Progress], None] | None = None
    error: Exception | None = None
    steps: int = 0


@dataclass
class FakeEngine:
    """Answers what it was asked for after two steps; `hold` keeps everything running until it is cleared."""

    name: str = "fake"
    bundle: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(presets=()))
    together: list[int] = field(default_factory=list)  # requests in each step
    requests: list[GenerationRequest] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    running: list[FakeRunning] = field(default_factory=list)
    num_guesses: int = 1  # of each step
    is_lost: bool = False

    @property
    def work(self) -> Work:
        return Work(len(self.together), sum(self.together), len(self.running))

    def prepare(self, request: GenerationRequest, waited_ms: float = 0.0) -> GenerationRequest:
        steps = request.decoding.steps
        if steps is not None and steps < 1:
            message = f"steps must be at least 1, not {steps}"
            raise RequestError(message, param="decoding.steps", code="steps_out_of_range")
        if request.task not in ("auto", "t2i", "vqa"):
            raise RequestError(f"unknown task {request.task!r}; there are: t2i, vqa", param="task", code="task_unknown")
        return request

    def submit(
        self,
        prepared: GenerationRequest,
        on_progress: Callable[[Progress], None] | None = None,
        interactive: bool = False,
    ) -> FakeRunning:
        self.requests.append(prepared)
        self.running.append(FakeRunning(prepared, on_progress))
        return self.running[-1]

    def cancel(self, running: FakeRunning) -> None:
        self.running.remove(running)
        self.cancelled.set()

    def step(self) -> list[FakeRunning]:
        time.sleep(0.001)
        self.together.append(len(self.running))
        for running in self.running:
            running.steps += 1
            if running.on_progress is not None:
                running.on_progress(_progress(running, self.num_guesses))
            if TextPart("crash") in running.request.parts:
                running.error = RuntimeError("secret detail of a crash")
            if TextPart("crash everything") in running.request.parts:
                raise RuntimeError("secret detail of a crash")
        left = [r for r in self.running if r.error or (r.steps >= 2 and not self.hold.is_set())]
        self.running = [r for r in self.running if r not in left]
        return left

    def speak(self, running: FakeRunning, codes: Sequence[int]) -> AudioPart:
        return AudioPart(TONE[:1000] if len(codes) == 1 else TONE[1000:1500], 22050)

    def probe(self) -> None:
        if self.is_lost:
            raise RuntimeError("device lost")

    def draw(self, codes: Sequence[int]) -> ImagePart:
        return ImagePart(np.full((16, 24, 3), codes[0], np.uint8))

    def answer(self, running: FakeRunning) -> Generation:
        if TextPart("crash in the codec") in running.request.parts:
            raise RuntimeError("secret detail of a crash")
        return _answer(running.request)

    def generate(self, requests: Sequence[GenerationRequest], on_step: object = None) -> list[Generation]:
        running = [self.submit(self.prepare(request)) for request in requests]
        while self.running:
            self.step()
        for r in running:
            if r.error is not None:
                raise r.error
        return [self.answer(r) for r in running]


def _progress(running: FakeRunning, num_guesses: int) -> Progress:
    """Half of the words and of the speech after the first step, all but the last ones after the second."""
    done = min(running.steps, 2)
    words = " ".join(part.text for part in running.request.parts if isinstance(part, TextPart)).split()
    text = " ".join(words[: len(words) * done // 3])
    commits = Tokens((running.steps - 1,), (running.steps,), (-0.5,))
    guesses = Tokens((2,) * num_guesses, (9,) * num_guesses, (-1.0,) * num_guesses)
    return Progress(running.steps, 2, done, 3, commits, guesses, text, (7,) * done, (done,) * 4)


def _answer(request: GenerationRequest) -> Generation:
    texts = [part.text for part in request.parts if isinstance(part, TextPart)]
    tone = TONE
    return Generation(
        task="fake",
        token_ids=(1, 2, 3),
        confidence=(None, -0.5, 0.0),
        text=" ".join(texts) if "text" in (request.outputs or ("text", "audio")) else None,
        audio=AudioPart(tone, 22050) if "audio" in (request.outputs or ("text", "audio")) else None,
        image=ImagePart(np.zeros((16, 24, 3), np.uint8)) if "image" in request.outputs else None,
        truncated="cut" in texts,
        text_tokens=tuple(map(TextToken, re.findall(r"\S+\s*", " ".join(texts)), (-0.5, 0.5, 0.0))),
        usage=Usage({"text": 5}, {"text": 3}, steps=2, forward_passes=2),
        timings=Timings(1.0, 2.0, 3.0),
        words=(Word("hello", 0.01, 0.5),) if request.word_times else (),
    )


@contextmanager
def serving(load: Callable[[], FakeEngine], settings: Settings | None = None) -> Iterator[httpx.Client]:
    settings = settings or Settings()
    server = Server(create_app(load, settings), settings)
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            with httpx.Client(base_url=url, timeout=WAIT_S) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def start() -> Callable[..., object]:
    """For tests that need a server of their own."""
    return serving


@contextmanager
def _asking(client: httpx.Client, body: object) -> Iterator[None]:
    data = json.dumps(body).encode()
    head = b"POST /v1/generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(head + b"content-length: %d\r\n\r\n%s" % (len(data), data))
        yield


@pytest.fixture(scope="session")
def asking() -> Callable[..., object]:
    """A context manager: somebody who asks `client`'s server for a generation, and leaves at its end."""
    return _asking


@pytest.fixture(scope="session")
def wait() -> Callable[[Callable[[], bool]], None]:
    return wait_until


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def new_engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def client(engine: FakeEngine) -> Iterator[httpx.Client]:
    """A ready server, shared by a module's tests: what one of them does must not hurt the next."""
    with serving(lambda: engine, Settings(max_body_bytes=2_000_000)) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        yield client


@pytest.fixture(scope="session")
def png() -> bytes:
    return write_image(ImagePart(np.full((20, 30, 3), 200, np.uint8)), "png")


@pytest.fixture(scope="session")
def wav() -> bytes:
    return write_audio(AudioPart(np.zeros(1600, np.float32), 16000), "wav")


@pytest.fixture(scope="session")
def bomb() -> bytes:
    """A valid picture of 64 megapixels in a few kilobytes."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("1", (8000, 8000)).save(out, "png")
    return out.getvalue()
