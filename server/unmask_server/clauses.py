"""A text cut into pieces that the model can speak one by one: sentences, and where one is too long, its clauses."""

import re
from collections.abc import Callable, Iterator
from typing import Final

MAX_BYTES: Final = 200  # of a piece; a token is at least a byte, and a canvas holds the speech of about 200 tokens
_SENTENCE_END: Final = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*|\n+")
_CLAUSE_END: Final = re.compile(r"(?<=[,;:–—])\s+|(?<=[，；：、])\s*")
_SPACE: Final = re.compile(r"\s+")
Fits = Callable[[str], bool]


def clauses(text: str, max_words: int | None = None) -> tuple[str, ...]:
    """Pieces of at most `MAX_BYTES` and `max_words` in order, none blank; a sentence that fits is one piece."""

    def fits(piece: str) -> bool:
        return len(piece.encode()) <= MAX_BYTES and (max_words is None or len(piece.split()) <= max_words)

    return tuple(piece for sentence in _SENTENCE_END.split(text) for piece in _fitting(sentence.strip(), fits))


def _fitting(sentence: str, fits: Fits) -> Iterator[str]:
    if not sentence:
        return
    if fits(sentence):
        yield sentence
        return
    for border in (_CLAUSE_END, _SPACE):
        parts = [part for part in border.split(sentence) if part]
        if len(parts) > 1:
            for piece in _filled(parts, fits):
                yield from _fitting(piece, fits)
            return
    cut = next(n for n in range(len(sentence), 0, -1) if fits(sentence[:n]))
    yield sentence[:cut]
    yield from _fitting(sentence[cut:], fits)


def _filled(parts: list[str], fits: Fits) -> list[str]:
    """Neighbours put together as long as they fit."""
    pieces = parts[:1]
    for part in parts[1:]:
        longer = f"{pieces[-1]} {part}"
        if fits(longer):
            pieces[-1] = longer
        else:
            pieces.append(part)
    return pieces
