"""What waits for a reader: bounded, because what a slow one has not read in time is merged, and nothing is lost."""

import asyncio
import contextlib
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


class Post(Generic[T]):
    """Brings events from any thread to mailboxes of one event loop, which is woken once for all that have come."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._sent: deque[tuple[Mailbox[T], T]] = deque()
        self._is_due = False

    def send(self, mailbox: Mailbox[T], event: T) -> None:
        self._sent.append((mailbox, event))
        if not self._is_due:
            self._is_due = True
            with contextlib.suppress(RuntimeError):  # the loop is gone: so is the reader
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_due = False  # before it looks: what is sent from here on is delivered now, or called for again
        while self._sent:
            mailbox, event = self._sent.popleft()
            mailbox.put(event)
