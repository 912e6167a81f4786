"""The tokens that a hole may begin with, where its text is to begin with one of some words or with a number.

Each position has its own set of ids, chosen before anything is decoded, so words of several tokens may come out mixed;
the first token is always that of one of them, and a number has a digit where it needs one.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from unmask_engine.loaded import Tokenizer
from unmask_engine.request import Begins
from unmask_engine.state import IdRanges

DIGITS: Final = tuple("0123456789")
MAX_RANGES: Final = 32  # of ids: a kernel looks at each for each logit
NEGATIVE: Final = tuple(f"-{digit}" for digit in DIGITS)


def openings(tokenizer: Tokenizer, begins: Begins, has_space: bool) -> tuple[bool, list[frozenset[int]]]:
    """Whether the space before the hole is for the hole to fill, and the ids of each of the hole's first positions."""
    words = (*begins.words, *(DIGITS if begins.number else ()))
    if has_space:
        spaced = [tokenizer.encode_plain(f" {word}") for word in (*words, *(NEGATIVE if begins.number else ()))]
        if _is_telling(tokenizer, spaced, begins.number):
            return True, _sets(spaced)
    return False, _sets([tokenizer.encode_plain(word) for word in words])


def ranges(ids: Iterable[int], otherwise: IdRanges) -> IdRanges:
    """Half-open ranges that hold just these ids; `otherwise` where that takes too many."""
    found: list[tuple[int, int]] = []
    for token in sorted(ids):
        if found and found[-1][1] == token:
            found[-1] = (found[-1][0], token + 1)
        else:
            found.append((token, token + 1))
    return tuple(found) if len(found) <= MAX_RANGES else otherwise


def _is_telling(tokenizer: Tokenizer, spellings: Sequence[Sequence[int]], number: bool) -> bool:
    """Whatever is taken, it is a beginning: of a number up to a digit, of a word more than its space."""
    if number:
        return len({len(ids) for ids in spellings}) == 1
    space = tokenizer.encode_plain(" ")
    return all(list(ids[:1]) != list(space) for ids in spellings)


def _sets(spellings: Sequence[Sequence[int]]) -> list[frozenset[int]]:
    """Up to where it is known which one it is, or the shortest ends: what comes after it may be anything."""
    known: list[frozenset[int]] = []
    for ids in zip(*spellings, strict=False):
        known.append(frozenset(ids))
        if len({tuple(one[: len(known)]) for one in spellings}) == len({tuple(one) for one in spellings}):
            break
    return known
