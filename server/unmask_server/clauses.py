"""A text cut into pieces that the model can speak one by one: sentences, and where one is too long, its clauses."""

import re
from collections.abc import Iterator
from typing import Final

MAX_BYTES: Final = 200  # of a piece; a token is at least a byte, and a canvas holds the speech of about 200 tokens
_SENTENCE_END: Final = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*|\n+")
_CLAUSE_END: Final = re.compile(r"(?<=[,;:–—])\s+|(?<=[，；：、])\s*")
_SPACE: Final = re.compile(r"\s+")


def clauses(text: str) -> tuple[str, ...]:
    """Pieces of at most `MAX_BYTES` in order, none blank; a sentence that fits is one piece."""
    return tuple(piece for sentence in _SENTENCE_END.split(text) for piece in _fitting(sentence.strip()))


def _fitting(sentence: str) -> Iterator[str]:
    if not sentence:
        return
    if _fits(sentence):
        yield sentence
        return
    for border in (_CLAUSE_END, _SPACE):
        parts = [part for part in border.split(sentence) if part]
        if len(parts) > 1:
            for piece in _filled(parts):
                yield from _fitting(piece)
            return
    cut = next(n for n in range(len(sentence), 0, -1) if _fits(sentence[:n]))
    yield sentence[:cut]
    yield from _fitting(sentence[cut:])


def _filled(parts: list[str]) -> list[str]:
    """Neighbours put together as long as they fit."""
    pieces = parts[:1]
    for part in parts[1:]:
        longer = f"{pieces[-1]} {part}"
        if _fits(longer):
            pieces[-1] = longer
        else:
            pieces.append(part)
    return pieces


def _fits(text: str) -> bool:
    return len(text.encode()) <= MAX_BYTES
