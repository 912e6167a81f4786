"""What is on its way to a client: in order, bounded; speech that is not wanted any more can be taken back."""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from unmask_server.realtime.events import JsonObject


@dataclass(frozen=True)
class Sound:
    """What a frame carries of an item's speech."""

    item_id: str
    num_samples: int


@dataclass(frozen=True)
class _Frame:
    text: str  # ASCII, so its length is that of its bytes
    sound: Sound | None


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

    @property
    def is_behind(self) -> bool:
        """The client has much left to read: previews only make it later."""
        return self._num_bytes > self._max_bytes // 8

    def put(self, event: JsonObject, sound: Sound | None = None) -> None:
        if self.overflowed.is_set():
            return
        frame = _Frame(_written(event), sound)
        self._frames.append(frame)
        self._num_bytes += len(frame.text)
        self._empty.clear()
        self._arrived.set()
        if self._num_bytes > self._max_bytes:
            self._frames.clear()
            self.overflowed.set()

    def take_back_speech(self, item_id: str) -> int:
        """Of that item, what has not left; -> how many samples that was."""
        kept: deque[_Frame] = deque()
        num_samples = 0
        for frame in self._frames:
            if frame.sound is not None and frame.sound.item_id == item_id:
                num_samples += frame.sound.num_samples
                self._num_bytes -= len(frame.text)
            else:
                kept.append(frame)
        self._frames = kept
        return num_samples

    async def run(self) -> None:
        """Sends what comes, for ever."""
        while True:
            await self._arrived.wait()
            while self._frames:
                frame = self._frames.popleft()
                self._num_bytes -= len(frame.text)
                try:
                    await self._send(frame.text)
                except asyncio.CancelledError:  # before any of it was written; the session's goodbye sends it
                    if not self.overflowed.is_set():
                        self._frames.appendleft(frame)
                        self._num_bytes += len(frame.text)
                    raise
            self._arrived.clear()
            self._empty.set()

    async def flushed(self) -> None:
        """Until all is sent."""
        await self._empty.wait()


def _written(event: JsonObject) -> str:
    """As JSON that every reader takes: what a client sent as half of a surrogate pair comes back as a question mark."""
    text = json.dumps(event, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.encode(errors="replace").decode()
