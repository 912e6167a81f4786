"""What is on its way to a client: in order, bounded; speech that is not wanted any more can be taken back."""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from unmask_server.realtime.events import JsonObject


@dataclass(frozen=True)
class _Frame:
    text: str  # ASCII, so its length is that of its bytes
    speech_of: str | None  # the item whose sound it is


class Outbox:
    """Belongs to one event loop. `send` waits while the client does not read."""

    def __init__(self, send: Callable[[str], Awaitable[None]], max_bytes: int) -> None:
        self._send = send
        self._max_bytes = max_bytes
        self._frames: deque[_Frame] = deque()
        self._num_bytes = 0
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.overflowed = asyncio.Event()  # a reader so slow is not served any more

    def put(self, event: JsonObject, speech_of: str | None = None) -> None:
        if self.overflowed.is_set():
            return
        frame = _Frame(json.dumps(event, separators=(",", ":"), allow_nan=False), speech_of)
        self._frames.append(frame)
        self._num_bytes += len(frame.text)
        self._empty.clear()
        self._arrived.set()
        if self._num_bytes > self._max_bytes:
            self._frames.clear()
            self.overflowed.set()

    def take_back_speech(self, item_id: str) -> None:
        self._frames = deque(frame for frame in self._frames if frame.speech_of != item_id)
        self._num_bytes = sum(len(frame.text) for frame in self._frames)

    async def run(self) -> None:
        """Sends what comes, for ever."""
        while True:
            await self._arrived.wait()
            while self._frames:
                frame = self._frames.popleft()
                self._num_bytes -= len(frame.text)
                await self._send(frame.text)
            self._arrived.clear()
            self._empty.set()

    async def flushed(self) -> None:
        """Until all is sent."""
        await self._empty.wait()
