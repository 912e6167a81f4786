"""Pictures on their way out of OpenAI's image endpoints: in the size and format asked for, whole or as events."""

import asyncio
import base64
import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from unmask_engine.edit_paste import in_place
from unmask_engine.media import write_image
from unmask_engine.request import Edit, Generation, ImagePart, RequestError
from unmask_server.answer import MIME
from unmask_server.engine_client import Event, Finished, Preview, Wants
from unmask_server.openai_media_schema import ImageRequest
from unmask_server.sse import event

MAX_SIDE: Final = 2048  # px
QUALITIES: Final = {"auto": "high", "standard": "medium", "hd": "high"}  # what OpenAI's answers have no word for


@dataclass(frozen=True)
class Pictures:
    """How the pictures of one request are delivered; raises RequestError for what cannot be."""

    wire: ImageRequest
    edit: Edit | None = None  # what the pictures are put into

    def __post_init__(self) -> None:
        wire = self.wire
        width, height = self._shape
        if self.size is not None and self.size[0] * height != self.size[1] * width:
            ratio = f"{width}:{height}"
            message = f"size {wire.size} would distort a picture of {ratio}; ask for a size in proportion, or auto."
            raise RequestError(message, param="size", code="size_not_supported")
        if self.size is not None and max(self.size) > MAX_SIDE:
            message = f"size {wire.size} is too large; sides up to {MAX_SIDE} are made."
            raise RequestError(message, param="size", code="size_not_supported")
        if wire.background == "transparent":
            message = "background: the model's pictures have no transparency; ask for opaque."
            raise RequestError(message, param="background", code="not_supported")
        if wire.output_compression is not None and wire.output_format == "png":
            message = "output_compression is for webp and jpeg; png is lossless."
            raise RequestError(message, param="output_compression", code="parameter_without_effect")
        if wire.partial_images and not wire.stream:
            message = "partial_images come in a stream; set `stream`, or leave them out."
            raise RequestError(message, param="partial_images", code="parameter_without_effect")
        if wire.preview.every_steps and (not wire.stream or wire.partial_images):
            message = "preview goes with `stream`, and in place of `partial_images`."
            raise RequestError(message, param="preview", code="parameter_without_effect")

    @property
    def wants(self) -> Wants:
        return Wants(num_previews=self.wire.partial_images, preview_every=self.wire.preview.every_steps)

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels; None for those of the picture that is made."""
        if self.wire.size == "auto":
            return None
        width, height = map(int, self.wire.size.split("x"))
        return width, height

    def whole(self, made: Sequence[Generation]) -> dict[str, Any]:
        """The body of the answer; slow, so call it in a worker thread."""
        images = [self._image(generation) for generation in made]
        return {
            "created": int(time.time()),
            "data": [self._datum(self._encode(image)) for image in images],
            **self._about(images[0]),
            "background": "opaque",
            "usage": _usage(made),
        }

    async def frames(self, events: AsyncGenerator[Event]) -> AsyncGenerator[bytes]:
        """Previews of a picture, up to `partial_images` where those are asked for, and then itself; one by one."""
        shown, most = 0, self.wire.partial_images or math.inf
        async with aclosing(events):
            async for happened in events:
                if isinstance(happened, Preview) and shown < most:
                    image = await asyncio.to_thread(in_place, self.edit, happened.image)
                    data = await self._event("partial_image", image)
                    yield event({**data, "partial_image_index": shown})
                    shown += 1
                elif isinstance(happened, Finished):
                    data = await self._event("completed", self._image(happened.generation))
                    yield event({**data, "usage": _usage([happened.generation])})
                    shown = 0

    @property
    def _shape(self) -> tuple[int, int]:
        """Width and height to which a size must be proportional."""
        if self.edit is None:
            return 1, 1
        assert self.edit.mask is not None  # a picture is edited
        height, width = self.edit.mask.shape
        return width, height

    async def _event(self, name: str, image: ImagePart) -> dict[str, Any]:
        return {
            "type": f"{'image_generation' if self.edit is None else 'image_edit'}.{name}",
            "b64_json": await asyncio.to_thread(self._encode, image),
            "created_at": int(time.time()),
            **self._about(image),
            "background": "opaque",
        }

    def _about(self, image: ImagePart) -> dict[str, str]:
        width, height = self.size or image.pixels.shape[1::-1]
        return {
            "size": f"{width}x{height}",
            "quality": QUALITIES.get(self.wire.quality, self.wire.quality),
            "output_format": self.wire.output_format,
        }

    def _datum(self, picture: str) -> dict[str, str | None]:
        if self.wire.response_format == "url":
            return {"url": f"data:{MIME[self.wire.output_format]};base64,{picture}", "revised_prompt": None}
        return {"b64_json": picture, "revised_prompt": None}

    def _encode(self, image: ImagePart) -> str:
        wire = self.wire
        image = image if self.size is None else _resized(image, self.size)
        return base64.b64encode(write_image(image, wire.output_format, quality=wire.output_compression)).decode()

    def _image(self, generation: Generation) -> ImagePart:
        assert generation.image is not None  # it was asked for
        return generation.image


def _resized(image: ImagePart, size: tuple[int, int]) -> ImagePart:
    """To the same size it is the same pixels."""
    from PIL import Image

    return ImagePart(np.asarray(Image.fromarray(image.pixels).resize(size, Image.Resampling.LANCZOS)))


def _usage(made: Sequence[Generation]) -> dict[str, Any]:
    text = sum(one.usage.input_tokens.get("text", 0) for one in made)
    image = sum(one.usage.input_tokens.get("image", 0) for one in made)
    output = sum(one.usage.output_tokens.get("image", 0) for one in made)
    return {
        "input_tokens": text + image,
        "input_tokens_details": {"text_tokens": text, "image_tokens": image},
        "output_tokens": output,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": output},
        "total_tokens": text + image + output,
        "steps": sum(one.usage.steps for one in made),  # not OpenAI's, as in chats
    }
