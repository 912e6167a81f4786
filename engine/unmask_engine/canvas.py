"""The canvas of a request before its first step: what is pinned, and what each other position may hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask_engine.preset import Preset
from unmask_engine.request import MAX_CANVAS_TOKENS, Generation, RequestError
from unmask_engine.state import IdRanges, canvas_of, unconstrained
from unmask_engine.vocabulary import Vocabulary

Paste = Callable[[Generation], Generation]  # puts what was made into what was given


@dataclass(frozen=True)
class Canvas:
    """The fields of Plan that are the canvas's."""

    ids: Tensor  # (N,) int64: pinned ids, the mask id elsewhere
    allowed: tuple[IdRanges, ...]
    end_from: int = 0


def blank(vocabulary: Vocabulary, preset: Preset, length: int, *, compat: bool, constrain: bool) -> Canvas:
    """For an answer from nothing: the preset's pins alone. `compat` keeps those that the reference has."""
    pins = {
        pin.position(length): vocabulary.special[pin.token] for pin in preset.pins if pin.in_reference or not compat
    }
    if len(pins) >= length or not all(0 <= position < length for position in pins):
        raise RequestError(
            f"max_tokens {length} leaves no room for an answer of task {preset.task}",
            param="decoding.max_tokens",
            code="max_tokens_out_of_range",
        )
    starts = [position for position, token in pins.items() if token == vocabulary.special["begin_of_audio"]]
    return Canvas(
        ids=canvas_of(length, vocabulary.mask, pins),
        allowed=_allowed(vocabulary, preset, length, pins, constrain and not compat),
        end_from=starts[0] if starts else 0,
    )


def pinned(
    vocabulary: Vocabulary, before: Sequence[str], body: Sequence[int], after: Sequence[str], holes: IdRanges
) -> Canvas:
    """For an edit: everything given but the masks in `body`, which may hold `holes`; the frame by its roles."""
    special = vocabulary.special
    ids = [*(special[role] for role in before), *body, *(special[role] for role in after)]
    if len(ids) > MAX_CANVAS_TOKENS:
        raise RequestError(
            f"the target takes {len(ids):,} tokens, at most {MAX_CANVAS_TOKENS:,} are allowed; edit it in parts",
            param="edit.target",
            code="target_too_long",
        )
    canvas = torch.tensor(ids, dtype=torch.int64)
    return Canvas(canvas, unconstrained(canvas, holes))


def _allowed(
    vocabulary: Vocabulary, preset: Preset, length: int, pins: Mapping[int, int], constrain: bool
) -> tuple[IdRanges, ...]:
    """Inside a framed image its codes alone; where speech is spoken its codes and frame; elsewhere everything."""
    at = {token: position for position, token in pins.items()}
    image = range(
        at.get(vocabulary.special["begin_of_image"], length), at.get(vocabulary.special["end_of_image"], length)
    )
    speech_from = at.get(vocabulary.special["begin_of_audio"], 0) if "audio" in preset.outputs else length
    allowed = []
    for position in range(length):
        if constrain and position in image:
            allowed.append(vocabulary.image_span)
        elif constrain and position >= speech_from:
            allowed.append(vocabulary.audio_span)
        else:
            allowed.append(vocabulary.everything)
    return tuple(allowed)
