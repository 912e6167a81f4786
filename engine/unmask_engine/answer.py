"""A committed canvas cut into text, speech codes and image codes. Nothing is ever shifted.

Formats (decoding.md, Presets): `text<|im_end|>`, `<BOA>audio<EOA>`, `text\\n<BOA>audio<EOA>`, `<BOI>image<EOI>`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from unmask_engine.request import Modality
from unmask_engine.vocabulary import Vocabulary


@dataclass(frozen=True)
class Answer:
    text: tuple[int, ...]  # ids
    text_at: tuple[int, ...]  # their canvas positions
    audio: tuple[int, ...]  # codes
    image: tuple[int, ...]  # codes, as many as an image has
    truncated: bool  # the canvas filled up before the end mark


def split(
    canvas: Sequence[int], vocabulary: Vocabulary, outputs: Sequence[Modality], image_tokens: int, end_from: int = 0
) -> Answer:
    """Cut a canvas (N,) of a preset that gives `outputs`; `end_from` as in Plan.

    Positions that are still masked count as missing. A stray id inside a media span is replaced at its own place by the
    code before it, so that what follows keeps its time or its place in the picture.
    """
    ids = list(canvas)
    has_end = vocabulary.end in ids[end_from:]
    stop = ids.index(vocabulary.end, end_from) if has_end else len(ids)
    body = ids[:stop]
    if "image" in outputs:
        return Answer((), (), (), _image(body, vocabulary, image_tokens), not has_end)
    if "audio" not in outputs:
        text_at = _text(body, vocabulary)
        return Answer(tuple(ids[i] for i in text_at), text_at, (), (), not has_end)
    begin = vocabulary.special["begin_of_audio"]
    if begin in body[end_from:]:
        start = body.index(begin, end_from)
    else:  # speech without its frame: from its first code on
        start = next((i for i, token in enumerate(body) if token in vocabulary.audio), len(body)) - 1
    text_at = _text(body[: start + 1], vocabulary) if "text" in outputs else ()
    text = tuple(ids[i] for i in text_at)
    return Answer(text, text_at, _audio(body[start + 1 :], vocabulary), (), not has_end)


def _text(ids: Sequence[int], vocabulary: Vocabulary) -> tuple[int, ...]:
    """Positions up to the end mark, or the first one that is still masked; codes and pads left out."""
    stops = (vocabulary.end, vocabulary.mask)
    stop = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    not_text = (vocabulary.pad, vocabulary.special["begin_of_audio"], vocabulary.special["end_of_audio"])
    return tuple(
        position
        for position, token in enumerate(ids[:stop])
        if token not in vocabulary.audio and token not in vocabulary.image and token not in not_text
    )


def _audio(ids: Sequence[int], vocabulary: Vocabulary) -> tuple[int, ...]:
    """Up to the end of the speech, or the first position that is still masked."""
    stops = (vocabulary.special["end_of_audio"], vocabulary.end, vocabulary.mask)
    stop = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    return _codes(ids[:stop], vocabulary.audio)


def _image(ids: Sequence[int], vocabulary: Vocabulary, image_tokens: int) -> tuple[int, ...]:
    """The codes of one image; what is missing at the end repeats the last one, as in the reference."""
    begin = vocabulary.special["begin_of_image"]
    start = ids.index(begin) + 1 if begin in ids else 0
    codes = _codes(ids[start : start + image_tokens], vocabulary.image)
    return codes + (codes[-1] if codes else 0,) * (image_tokens - len(codes))


def _codes(ids: Sequence[int], of: range) -> tuple[int, ...]:
    """One code an id. A stray id takes the code before it, at the beginning the first code there is."""
    last = next((token - of.start for token in ids if token in of), None)
    if last is None:
        return ()
    codes = []
    for token in ids:
        last = token - of.start if token in of else last
        codes.append(last)
    return tuple(codes)
