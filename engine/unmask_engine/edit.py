"""Editing is pinning: the target's tokens are the canvas, what is to be made anew is masked, the rest is pinned.

The prompt is that of making the target from nothing, so it says what is to be there. What comes out is pasted into the
target: outside of what was masked it stays as it was, pixel by pixel, sample by sample, character by character.
"""

from unmask_engine.canvas import Canvas, Paste
from unmask_engine.choose import modality
from unmask_engine.edit_image import edit_image
from unmask_engine.edit_speech import edit_speech
from unmask_engine.edit_text import edit_text
from unmask_engine.edit_words import timed_spans
from unmask_engine.loaded import LoadedBundle
from unmask_engine.preset import Preset
from unmask_engine.request import Decoding, Edit, ImagePart, RequestError, TextPart, WordSpan


def edited(bundle: LoadedBundle, preset: Preset, edit: Edit, wording: str, decoding: Decoding) -> tuple[Canvas, Paste]:
    """The canvas of an edit, and what pastes its answer. `wording` is the caller's text; raises RequestError."""
    kind = modality(edit.target)
    if preset.outputs != (kind,):
        raise RequestError(
            f"task {preset.task} gives {' + '.join(preset.outputs)}; an edit of {kind} needs a task that gives {kind} "
            "alone",
            param="output",
            code="output_unsuitable",
        )
    _check_fields(edit)
    check_decoding(decoding)
    if isinstance(edit.target, TextPart):
        return edit_text(bundle, edit.target, edit.begins)
    if isinstance(edit.target, ImagePart):
        assert edit.mask is not None  # checked
        return edit_image(bundle, edit.target, edit.mask)
    return edit_speech(bundle, edit.target, timed_spans(bundle, edit), wording)


def _check_fields(edit: Edit) -> None:
    kind = modality(edit.target)
    if edit.transcript is not None and not any(isinstance(span, WordSpan) for span in edit.spans):
        message = "transcript goes with spans of words; leave it out"
        raise RequestError(message, param="edit.transcript", code="parameter_without_effect")
    for name, belongs_to, is_given in (
        ("mask", "image", edit.mask is not None),
        ("spans", "audio", len(edit.spans) > 0),
    ):
        if is_given != (kind == belongs_to):
            verb = "has no" if is_given else "needs"
            message = f"an edit of {kind} {verb} {name}; a mask goes with an image, spans go with audio"
            raise RequestError(message, param=f"edit.{name}", code="edit_unsuitable")


def check_decoding(decoding: Decoding) -> None:
    """Raises RequestError for what does not go with an edit."""
    for name, is_given, why in (
        ("max_tokens", decoding.max_tokens is not None, "the target sets the length"),
        ("constrain", not decoding.constrain, "what is filled in must be of the target's kind"),
        ("reference_compat", decoding.reference_compat, "the reference edits nothing"),
    ):
        if is_given:
            message = f"{name} does not go with an edit: {why}; leave it out"
            raise RequestError(message, param=f"decoding.{name}", code="parameter_without_effect")
