"""`POST /v1/images/generations` and `/v1/images/edits`, as OpenAI has them."""

from dataclasses import replace
from typing import Final

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from unmask_engine.media import MediaLimits, read_image, read_mask
from unmask_engine.request import Edit, GenerationRequest, ImagePart, RequestError, TextPart
from unmask_server.body import read_json
from unmask_server.connection import while_connected
from unmask_server.direct_route import DirectRoute
from unmask_server.engine_client import EngineClient
from unmask_server.fan_out import answers, in_turn
from unmask_server.openai_call import in_media_slot
from unmask_server.openai_form import Form, read_form
from unmask_server.openai_media_schema import ImageRequest
from unmask_server.openai_pictures import Pictures
from unmask_server.settings import Settings
from unmask_server.sse import begun, sse_response

router = APIRouter(route_class=DirectRoute)
NAMES: Final = {"input": "prompt", "edit.mask": "mask", "edit.target": "image"}
VARIETY: Final = 1.0  # temperature of all but the first picture, where none is given: at 0 all would be the same


@router.post("/v1/images/generations", response_model=None)
async def generate_images(request: Request) -> Response:
    """Pictures of a text; with `stream` as server-sent events, previews included."""
    wire = await read_json(request, ImageRequest)
    decoding = wire.decoding(wire.max_tokens)
    work = GenerationRequest((TextPart(wire.prompt),), ("image",), wire.task, decoding=decoding)
    return await _deliver(request, Pictures(wire), work)


@router.post("/v1/images/edits", response_model=None)
async def edit_images(request: Request) -> Response:
    """A picture drawn anew where `mask`, or the picture itself, is transparent; the rest comes back as it is."""
    settings: Settings = request.app.state.settings
    form = await read_form(request, settings.max_body_bytes)
    wire = form.read(ImageRequest)
    target, mask = await in_media_slot(request, lambda: _read_target(form, settings.media))
    decoding, edit = wire.decoding(wire.max_tokens), Edit(target, mask)
    work = GenerationRequest((TextPart(wire.prompt),), ("image",), wire.task, decoding=decoding, edit=edit)
    return await _deliver(request, Pictures(wire, edit), work)


async def _deliver(request: Request, pictures: Pictures, work: GenerationRequest) -> Response:
    bridge: EngineClient = request.app.state.bridge
    works = _variations(work, pictures.wire.n)
    if pictures.wire.stream:
        frames = pictures.frames(in_turn(bridge, works, pictures.wants, NAMES))
        return sse_response(await while_connected(request, begun(frames)))
    made = await while_connected(request, answers(bridge, works, NAMES))
    return JSONResponse(await in_media_slot(request, lambda: pictures.whole(made)))


def _read_target(form: Form, limits: MediaLimits) -> tuple[ImagePart, NDArray[np.bool_]]:
    """The picture, and a mask that is True where it is to be drawn anew."""
    picture = form.file("image")
    painted, param = (form.file("mask"), "mask") if "mask" in form.files else (picture, "image")
    mask = read_mask(painted, limits, param=param)
    if not mask.any():
        message = f"{param} has no transparent pixels; make those transparent that are to be drawn anew."
        raise RequestError(message, param="mask", code="mask_invalid")
    return read_image(picture, limits, param="image"), mask


def _variations(work: GenerationRequest, n: int) -> list[GenerationRequest]:
    """The request and others like it: each with a seed of its own, counted on from the one given."""
    seed, temperature = work.decoding.seed, work.decoding.temperature
    others = (
        replace(work.decoding, seed=None if seed is None else seed + i, temperature=temperature or VARIETY)
        for i in range(1, n)
    )
    return [work, *(replace(work, decoding=decoding) for decoding in others)]
