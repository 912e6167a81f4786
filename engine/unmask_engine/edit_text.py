"""Holes in a text: `A [MASK:1] circle on [MASK:3].` What is around them is given."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from unmask_engine.canvas import Canvas, Paste, pinned
from unmask_engine.edit_openings import openings, ranges
from unmask_engine.loaded import LoadedBundle
from unmask_engine.request import MAX_CANVAS_TOKENS, Begins, Generation, RequestError, TextPart
from unmask_engine.state import IdRanges

HOLE: Final = re.compile(r"\[MASK(?::([^\]]*))?\]")
MAX_CHARACTERS: Final = 65_536  # no text of this length fits a canvas; tokenising a longer one takes seconds


def edit_text(bundle: LoadedBundle, target: TextPart, begins: Sequence[Begins | None]) -> tuple[Canvas, Paste]:
    """`begins` is what each hole begins with, or empty."""
    if len(target.text) > MAX_CHARACTERS:
        message = f"the target has {len(target.text):,} characters, at most {MAX_CHARACTERS:,} are allowed"
        raise RequestError(message, param="edit.target.text", code="target_too_long")
    given, counts = HOLE.split(target.text)[::2], [_tokens(found) for found in HOLE.finditer(target.text)]
    if not counts:
        raise _bad_hole("the target has no hole; mark each place to fill by [MASK:n], n being its tokens")
    body: list[int] = []
    holes: list[slice] = []
    allowed: dict[int, IdRanges] = {}
    for text, count, begin in zip(given, (*counts, 0), (*(begins or [None] * len(counts)), None), strict=True):
        # The space before a word is part of its token, so it is the hole's to fill.
        is_spaced, first = text.endswith(" "), list[frozenset[int]]()
        if begin is not None:
            is_spaced, first = openings(bundle.tokenizer, begin, is_spaced)
        body += bundle.tokenizer.encode_plain(text.removesuffix(" ") if count and is_spaced else text)
        holes.append(slice(len(body), len(body) + count))
        allowed |= {len(body) + i: ranges(ids, bundle.vocabulary.text) for i, ids in enumerate(first[:count])}
        body += [bundle.vocabulary.mask] * count

    def paste(generation: Generation) -> Generation:
        whole = ""
        for text, hole, after in zip(given, holes, (*given[1:], ""), strict=True):
            whole += text
            whole += _fitting(bundle.tokenizer.decode(generation.token_ids[hole]), whole, after)
        return replace(generation, text=whole, text_tokens=())

    canvas = pinned(bundle.vocabulary, (), body, ("im_end", "newline"), bundle.vocabulary.text)
    return replace(canvas, allowed=tuple(allowed.get(at, ids) for at, ids in enumerate(canvas.allowed))), paste


def _fitting(text: str, before: str, after: str) -> str:
    """What fills a hole, without white space where the text around it has that or ends."""
    if not before or before[-1].isspace():
        text = text.lstrip()
    return text.rstrip() if not after or after[0].isspace() else text


def _tokens(hole: re.Match[str]) -> int:
    given = hole[1] or ""
    if not given.isascii() or not given.isdigit() or not 1 <= int(given[:9]) <= MAX_CANVAS_TOKENS:
        raise _bad_hole(f"{hole[0][:40]} is no hole: write [MASK:n] with n tokens, 1 to {MAX_CANVAS_TOKENS:,}")
    return int(given)


def _bad_hole(message: str) -> RequestError:
    return RequestError(message, param="edit.target.text", code="hole_invalid")
