"""A server that speaks the protocol and makes nothing: what a client sends is kept, what it gets is always the same."""

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, Request, WebSocket
from PIL import Image
from starlette.responses import JSONResponse, Response, StreamingResponse

from unmask_client import Audio

RATE = 22_050
TONE = Audio.from_samples(np.sin(np.arange(2205) / 20) / 2, RATE)
PCM = base64.b64encode(TONE.pcm16(RATE)).decode()
WORDS = [{"word": "a", "start": 0.0, "end": 0.02}, {"word": "red", "start": 0.02, "end": 0.06}]
WAV = base64.b64encode(TONE.data).decode()


def _png() -> str:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, "png")
    return base64.b64encode(out.getvalue()).decode()


PNG = _png()


@dataclass
class Stub:
    """`refusals` are answered first, one a request; `cut` leaves out the end of streams, `delay_s` makes it slow."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    heard: list[dict[str, Any]] = field(default_factory=list)  # events of realtime sessions
    refusals: list[Response] = field(default_factory=list)
    cut: bool = False
    delay_s: float = 0.0

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        names = [item if isinstance(item, str) else item["type"] for item in body.get("output", ["text"])]
        parts = {
            "text": {"type": "text", "text": "a red circle", "truncated": False},
            "image": {"type": "image", "format": "png", "width": 64, "height": 64, "data": PNG},
            "audio": {
                "type": "audio",
                "format": "wav",
                "sample_rate": RATE,
                "duration_s": 0.1,
                "data": WAV,
                "transcript": "a red circle",
            },
        }
        words = {"words": WORDS} if "word_timestamps" in body.get("return", ()) else {}
        return {
            "id": "gen_1",
            "object": "generation",
            "created": 1763900000,
            "model": "stub",
            "task": body.get("task", "auto"),
            "status": "completed",
            "output": [parts[name] for name in names],
            "usage": {"input_tokens": {}, "output_tokens": {}, "steps": 2, "forward_passes": 2},
            "timings": {"total_ms": 1.0},
            **words,
        }

    def frames(self, body: dict[str, Any]) -> Iterator[str]:
        events: list[dict[str, Any]] = [
            {"type": "generation.created", "id": "gen_1"},
            {"type": "generation.queued", "position": 1, "eta_ms": None},
            {"type": "generation.step", "step": 1, "steps": 2, "committed": 1, "total": 3},
            {"type": "tokens.commit", "step": 1, "positions": [0], "ids": [5], "confidence": [-0.5]},
            {"type": "tokens.guess", "step": 1, "positions": [1], "ids": [6]},
            {"type": "image.preview", "step": 1, "data": PNG},
            {"type": "text.delta", "text": "a red "},
            {"type": "audio.delta", "audio": PCM, "format": "pcm", "sample_rate": RATE},
            {"type": "text.delta", "text": "circle"},
            {"type": "text.done", "text": "a red circle"},
            {"type": "audio.done", "duration_s": 0.1, "transcript": "a red circle"},
            {"type": "image.done", "data": PNG},
            {"type": "of.tomorrow", "anything": 1},
        ]
        if "word_timestamps" in body.get("return", ()):
            events[-3]["words"] = WORDS
        yield ": keep-alive\n\n"
        for sequence, event in enumerate(events):
            yield f"data: {json.dumps({'sequence': sequence} | event)}\n\n"
        if body.get("input") == [{"type": "text", "text": "crash"}]:
            yield 'data: {"error": {"message": "it broke", "type": "server_error", "param": null, "code": "oops"}}\n\n'
        if not self.cut:
            yield f"data: {json.dumps(self.answer(body) | {'type': 'generation.completed'})}\n\ndata: [DONE]\n\n"


def stub_app(stub: Stub) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/generate")
    async def generate(request: Request) -> Response:
        body = await request.json()
        stub.bodies.append(body)
        stub.headers.append(dict(request.headers))
        await asyncio.sleep(stub.delay_s)
        if stub.refusals:
            return stub.refusals.pop(0)
        headers = {"x-request-id": "req_1"}
        if body.get("stream"):
            return StreamingResponse(stub.frames(body), headers=headers, media_type="text/event-stream")
        return JSONResponse(stub.answer(body), headers=headers)

    @app.websocket("/v1/realtime")
    async def realtime(socket: WebSocket) -> None:
        if socket.query_params.get("model") == "none":
            await socket.send_denial_response(JSONResponse({"error": {"message": "no key", "code": "no"}}, 401))
            return
        if stub.refusals:
            await socket.send_denial_response(stub.refusals.pop(0))
            return
        await socket.accept()
        await socket.send_json({"type": "session.created", "session": {}})
        async for event in socket.iter_json():
            stub.heard.append(event)
            if event["type"] == "response.create":
                await _reply(socket)

    return app


async def _reply(socket: WebSocket) -> None:
    for word in ("a red ", "circle"):
        await socket.send_json({"type": "response.output_audio_transcript.delta", "delta": word})
        await socket.send_json({"type": "response.output_audio.delta", "delta": PCM})
    await socket.send_json({"type": "response.done", "response": {"status": "completed"}})


@pytest.fixture(scope="session")
def running_stub() -> Iterator[Stub]:
    stub = Stub()
    server = uvicorn.Server(uvicorn.Config(stub_app(stub), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    stub.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield stub
    server.should_exit = True
    thread.join()


@pytest.fixture
def stub(running_stub: Stub) -> Stub:
    """The same server, its memory empty."""
    for kept in (running_stub.bodies, running_stub.headers, running_stub.heard, running_stub.refusals):
        kept.clear()
    running_stub.cut, running_stub.delay_s = False, 0.0
    return running_stub
