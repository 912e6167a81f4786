"""The thread on which tokens become media: answers and sound in order, previews while there is nothing else to do."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

log = logging.getLogger("unmask")

MAX_AHEAD: Final = 4  # things that wait; a preview that comes when there are more would be late


class MediaThread:
    """Works from `start` to `stop`; of a queue of its own, since a pool's futures take longer than a short text."""

    def __init__(self) -> None:
        self._work: deque[Callable[[], None]] = deque()
        self._previews: deque[Callable[[], None]] = deque()
        self._calls: SimpleQueue[None] = SimpleQueue()  # one for each thing to do, and one to end
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="media", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, work: Callable[[], None]) -> None:
        """Work is done in the order in which it comes."""
        self._work.append(work)
        self._calls.put(None)

    def offer(self, preview: Callable[[], None]) -> bool:
        """False, and the preview is dropped, where it would have to wait for too much."""
        if len(self._work) + len(self._previews) > MAX_AHEAD:
            return False
        self._previews.append(preview)
        self._calls.put(None)
        return True

    def stop(self, patience_s: float) -> None:
        """What has not begun is given up; waits so long for what has."""
        self._is_stopped = True
        self._calls.put(None)
        self._thread.join(patience_s)

    def _run(self) -> None:
        while True:
            self._calls.get()
            if self._is_stopped:
                return
            try:
                (self._work or self._previews).popleft()()  # whatever is most urgent
            except Exception:  # what failed has said so to those who wait; the thread is everybody's
                log.exception("work on the media thread failed")
