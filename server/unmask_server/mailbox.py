"""What waits for a reader: bounded, because what a slow one has not read in time is merged, and nothing is lost."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

MAX_UNREAD: Final = 16  # from here on a slow reader gets merged events


class Mailbox(Generic[T]):
    """Belongs to one event loop and one reader. `merge` gives one event for two, or None where both must stay."""

    def __init__(self, merge: Callable[[T, T], T | None]) -> None:
        self._merge = merge
        self._unread: deque[T] = deque()
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._unread)

    def put(self, event: T) -> None:
        """Takes the place of the latest unread event that it can be merged with, once enough are unread."""
        if len(self._unread) >= MAX_UNREAD:
            for at in reversed(range(len(self._unread))):
                if (merged := self._merge(self._unread[at], event)) is not None:
                    self._unread[at] = merged
                    return
        self._unread.append(event)
        self._arrived.set()

    async def get(self) -> T:
        await self._arrived.wait()
        event = self._unread.popleft()
        if not self._unread:
            self._arrived.clear()
        return event
