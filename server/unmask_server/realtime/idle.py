"""A user who says nothing after an answer: since when, for `idle_timeout_ms`."""

import time


class Idleness:
    """Counted in the sound that comes: who sends none is not silent but away. Belongs to one session."""

    def __init__(self) -> None:
        self._heard_at: float | None = None  # when the answer is heard out; None while nobody is waited for
        self.start_ms: int | None = None  # of the silence, on the session's clock

    def wait(self, left_s: float) -> None:
        """An answer is done, and so much of its sound is still to be played."""
        self._heard_at, self.start_ms = time.monotonic() + left_s, None

    def stop(self) -> None:
        """Somebody says something."""
        self._heard_at = self.start_ms = None

    def begin(self, ms: int) -> None:
        """The sound that comes next begins then; the silence does, too, if the answer is heard out."""
        if self.start_ms is None and self._heard_at is not None and time.monotonic() >= self._heard_at:
            self.start_ms = ms

    def begin_anew(self, ms: int) -> None:
        """What was heard of the silence is no longer there."""
        if self.start_ms is not None:
            self.start_ms = ms
