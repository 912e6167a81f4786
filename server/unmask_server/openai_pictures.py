"""Pictures on their way out of OpenAI's image endpoints: in the size and format asked for, whole or as events."""

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from unmask_engine.media import write_image
from unmask_engine.request import Generation, ImagePart, RequestError
from unmask_server.answer import MIME
from unmask_server.bridge import Event, Finished, Preview
from unmask_server.openai_media_schema import ImageRequest
from unmask_server.sse import event

MAX_SIDE: Final = 2048  # px
QUALITIES: Final = {"auto": "high", "standard": "medium", "hd": "high"}  # what OpenAI's answers have no word for


@dataclass(frozen=True)
class Pictures:
    """How the pictures of one request are delivered; raises RequestError for what cannot be."""

    wire: ImageRequest
    kind: Literal["image_generation", "image_edit"]
    shape: tuple[int, int] = (1, 1)  # width and height to which a size must be proportional

    def __post_init__(self) -> None:
        wire = self.wire
        if self.size is not None and self.size[0] * self.shape[1] != self.size[1] * self.shape[0]:
            ratio = ":".join(map(str, self.shape))
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
        """Up to `partial_images` previews of a picture and then itself, one picture after the other."""
        shown = 0
        async with aclosing(events):
            async for happened in events:
                if isinstance(happened, Preview) and shown < self.wire.partial_images:
                    data = await self._event("partial_image", happened.image)
                    yield event({**data, "partial_image_index": shown})
                    shown += 1
                elif isinstance(happened, Finished):
                    data = await self._event("completed", self._image(happened.generation))
                    yield event({**data, "usage": _usage([happened.generation])})
                    shown = 0

    async def _event(self, name: str, image: ImagePart) -> dict[str, Any]:
        return {
            "type": f"{self.kind}.{name}",
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
    }
