"""The `edit` of a request as the engine takes it."""

from unmask_engine.media import read_mask
from unmask_engine.request import Edit, Span, WordSpan
from unmask_server.body import Body, Media, media_bytes, read_part
from unmask_server.schema import EditSpan


def read_edit(body: Body, media: Media) -> Edit | None:
    """Decodes target and mask (slow: call it in a worker thread)."""
    wire = body.request.edit
    if wire is None:
        return None
    target = read_part(wire.target, body.files, "edit.target", media)
    mask = None
    if wire.mask is not None:
        data, _ = media_bytes(wire.mask, body.files, "edit.mask", media)
        mask = read_mask(data, media.limits, param="edit.mask")
    return Edit(target, mask, tuple(map(_span, wire.spans)), wire.transcript)


def _span(span: EditSpan) -> Span | WordSpan:
    if span.words is not None:
        return WordSpan(span.words, span.text)
    assert span.start is not None  # schema.py has checked
    assert span.end is not None
    return Span(span.start, span.end, span.text)
