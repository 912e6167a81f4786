"""The end of a server: from `begun` on new work is refused, and what is open may finish."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Kind = Literal["http", "websocket"]


class Drain:
    """Belongs to the event loop. A dialogue waits for `begun` beside its other events, and ends after its turn."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.num_open: dict[Kind, int] = {"http": 0, "websocket": 0}
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @contextmanager
    def open(self, kind: Kind) -> Iterator[None]:
        """Around a request or a session, which the end of the server waits for."""
        self.num_open[kind] += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self.num_open[kind] -= 1
            if not any(self.num_open.values()):
                self._is_idle.set()

    async def finished(self, timeout_s: float) -> bool:
        """Waits until nothing is open, or so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_idle.wait()
        except TimeoutError:
            return False
        return True
