"""How the sound of a reply comes, for a listener who plays it from its first moment on."""

import time


class Playback:
    """Begins at the end of the user's turn. Times are seconds."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first: float | None = None  # when the playing began
        self._sent_s = 0.0  # of sound
        self.underrun_s = 0.0  # how long the player had nothing to play

    @property
    def first_s(self) -> float | None:
        """To the first sound; None where there is none."""
        return None if self._first is None else self._first - self._began

    @property
    def rtf(self) -> float:
        """To now, a second of sound."""
        return (time.perf_counter() - self._began) / self._sent_s

    @property
    def left_s(self) -> float:
        """Of what has been sent, not played yet."""
        if self._first is None:
            return 0.0
        return max(0.0, self._first + self.underrun_s + self._sent_s - time.perf_counter())

    def sent(self, total_s: float) -> None:
        """So much sound has left by now."""
        if total_s <= self._sent_s:
            return
        now = time.perf_counter()
        if self._first is None:
            self._first = now
        self.underrun_s += max(0.0, now - self._first - self._sent_s - self.underrun_s)
        self._sent_s = total_s
