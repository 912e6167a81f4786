"""The `edit` of a request as the engine takes it."""

from unmask_engine.media import MediaLimits, read_mask
from unmask_engine.request import Edit, Span
from unmask_server.body import Body, media_bytes, read_part


def read_edit(body: Body, limits: MediaLimits) -> Edit | None:
    """Decodes target and mask (slow: call it in a worker thread)."""
    wire = body.request.edit
    if wire is None:
        return None
    target = read_part(wire.target, body.files, "edit.target", limits)
    mask = None
    if wire.mask is not None:
        data, _ = media_bytes(wire.mask, body.files, "edit.mask")
        mask = read_mask(data, limits, param="edit.mask")
    return Edit(target, mask, tuple(Span(span.start, span.end, span.text) for span in wire.spans))
