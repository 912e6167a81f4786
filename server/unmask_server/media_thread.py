"""The thread on which tokens become media: answers and sound in order, previews while there is nothing else to do."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

MAX_AHEAD: Final = 4  # things that wait; a preview that comes when there are more would be late


class MediaThread:
    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="media")
        self._work: deque[Callable[[], None]] = deque()
        self._previews: deque[Callable[[], None]] = deque()

    def submit(self, work: Callable[[], None]) -> None:
        """Work is done in the order in which it comes."""
        self._work.append(work)
        self._pool.submit(self._next)

    def offer(self, preview: Callable[[], None]) -> bool:
        """False, and the preview is dropped, where it would have to wait for too much."""
        if len(self._work) + len(self._previews) > MAX_AHEAD:
            return False
        self._previews.append(preview)
        self._pool.submit(self._next)
        return True

    def stop(self) -> None:
        """What has not begun is given up."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> None:
        """Whatever is most urgent: there are as many calls of this as things to do."""
        (self._work or self._previews).popleft()()
