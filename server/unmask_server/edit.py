"""The `edit` of a request as the engine takes it."""

from unmask_engine.media import read_mask
from unmask_engine.request import Edit, JointEdit, RequestError, Span, Whole, WordSpan
from unmask_server.body import Body, Media, media_bytes, read_part
from unmask_server.schema import EditOptions, EditSpan


def read_edit(body: Body, media: Media) -> Edit | JointEdit | None:
    """Decodes targets and masks (slow: call it in a worker thread)."""
    wire = body.request.edits
    if not wire:
        return None
    if len(wire) == 1:
        param = "edit[0]" if isinstance(body.request.edit, list) else "edit"
        edit = _read(wire[0], body, param, media)
        if isinstance(edit, Whole):
            message = (
                f"{param}.target has no content: give data or file; without `edit` the {edit.modality} is made whole"
            )
            raise RequestError(message, param=f"{param}.target", code="missing_input")
        return edit
    return JointEdit(tuple(_read(edit, body, f"edit[{i}]", media) for i, edit in enumerate(wire)))


def _read(wire: EditOptions, body: Body, param: str, media: Media) -> Edit | Whole:
    if wire.target.is_whole:
        return Whole(wire.target.type)
    target = read_part(wire.target, body.files, f"{param}.target", media)
    mask = None
    if wire.mask is not None:
        data, _ = media_bytes(wire.mask, body.files, f"{param}.mask", media)
        mask = read_mask(data, media.limits, param=f"{param}.mask")
    return Edit(target, mask, tuple(map(_span, wire.spans)), wire.transcript)


def _span(span: EditSpan) -> Span | WordSpan:
    if span.words is not None:
        return WordSpan(span.words, span.text)
    assert span.start is not None  # schema.py has checked
    assert span.end is not None
    return Span(span.start, span.end, span.text)
