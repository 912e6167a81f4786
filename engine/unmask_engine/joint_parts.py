"""What each target of a joint edit goes by: the input, and what is known of the other targets.

A picture shows the input, or the words where there is none. Holes in words are filled by the input together with the
picture, or else with the recording. Speech says the words, or the input where there are none.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from unmask_engine.choose import modality
from unmask_engine.edit_text import HOLE
from unmask_engine.loaded import LoadedBundle
from unmask_engine.request import (
    AudioPart,
    Edit,
    ImagePart,
    Modality,
    Part,
    RequestError,
    Span,
    TextPart,
    Whole,
)

Known = Mapping[Modality, Part]  # the targets as far as they say something
_TOLD_BY: Final[Mapping[Modality, tuple[Modality, ...]]] = {
    "image": ("text", "audio"),
    "text": ("image", "audio"),
    "audio": ("text",),
}
STAND_IN: Final = " word"  # a token that is still to be filled in, when the length of its speech is reckoned


def kind_of(edit: Edit | Whole) -> Modality:
    return edit.modality if isinstance(edit, Whole) else modality(edit.target)


def is_open(edit: Edit | Whole) -> bool:
    """Something of the target is to be made."""
    if isinstance(edit, Whole):
        return True
    has_hole = isinstance(edit.target, TextPart) and HOLE.search(edit.target.text) is not None
    return edit.mask is not None or len(edit.spans) > 0 or has_hole


def known_parts(edits: Iterable[Edit | Whole]) -> Known:
    """Before anything is made: words without their holes, a recording with silence where it is to be said anew."""
    known: dict[Modality, Part] = {}
    for one in edits:
        if isinstance(one, Whole):
            continue
        if isinstance(one.target, TextPart):
            words = " ".join(HOLE.sub("", one.target.text).split()) if is_open(one) else one.target.text
            if words.strip():
                known["text"] = TextPart(words)
        else:
            known[modality(one.target)] = _silenced(one) if isinstance(one.target, AudioPart) else one.target
    return known


def stand_in(bundle: LoadedBundle, edit: Edit | Whole, known: Known) -> Known:
    """As if the target were made: as long or as large as it will be."""
    if isinstance(edit, Whole):
        side = bundle.image_output_size
        picture = ImagePart(np.zeros((side, side, 3), np.uint8))
        return {**known, "image": picture} if edit.modality == "image" else known
    if not isinstance(edit.target, TextPart):
        return known
    filled = HOLE.sub(lambda hole: STAND_IN * int(hole[1]), edit.target.text)
    return {**known, "text": TextPart(filled)}


def parts_for(bundle: LoadedBundle, kind: Modality, given: tuple[Part, ...], known: Known) -> tuple[Part, ...]:
    """`given` is the input; raises RequestError where neither it nor another target says what is to be there."""
    beside = [known[other] for other in _TOLD_BY[kind] if other in known]
    if kind == "audio" or not given:
        parts = tuple(beside[:1]) or given
    elif kind == "image":
        parts = given
    else:
        parts = next((both for part in beside if _is_answered(bundle, both := (*given, part))), given)
    if not parts:
        message = f"nothing says what the {kind} is to be; give `input`, or more of the other targets"
        raise RequestError(message, param="input", code="missing_input")
    return parts


def _is_answered(bundle: LoadedBundle, parts: tuple[Part, ...]) -> bool:
    """There is a task that answers these parts by text alone."""
    kinds = sorted(map(modality, parts))
    return any(preset.outputs == ("text",) and sorted(preset.inputs) == kinds for preset in bundle.presets)


def _silenced(edit: Edit) -> AudioPart:
    assert isinstance(edit.target, AudioPart)
    rate, samples = edit.target.sample_rate, edit.target.samples.copy()
    for span in edit.spans:
        assert isinstance(span, Span)  # joint.py has found the words
        if np.isfinite((span.start, span.end)).all():  # else it will be refused
            samples[max(0, round(span.start * rate)) : max(0, round(span.end * rate))] = 0
    return AudioPart(samples, rate)
