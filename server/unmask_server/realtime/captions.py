"""The words of a spoken reply on their way to its deltas: as they are known, or each with the time when it is said."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from unmask_engine.request import Word

_NEXT_WORD: Final = re.compile(r"\s*\S+")


class Captions:
    """With `waits` a word is told once its time is known, or else at the end of the reply."""

    def __init__(self, waits: bool) -> None:
        self._waits = waits
        self._text = ""  # all that is known
        self._num_told = 0  # characters

    def grown(self, text: str | None) -> str | None:
        """`text` is all there is so far, if anything is added; what of it may be told, likewise."""
        if text is not None:
            self._text = text
        return None if self._waits else text

    def timed(self, words: Sequence[Word], begins_s: float) -> Iterator[tuple[str, float]]:
        """Each of the next words as the text up to its end, and when it begins in the reply (seconds)."""
        for word in words if self._waits else ():
            found = _NEXT_WORD.match(self._text, self._num_told)
            if found is None or found[0].strip() != word.text:
                return
            self._num_told = found.end()
            yield self._text[: self._num_told], begins_s + word.start

    @property
    def all(self) -> str:
        """The text, whether its times have come or not."""
        return self._text
