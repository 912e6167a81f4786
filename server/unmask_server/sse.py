"""Server-sent events: framing, keep-alive, and how a stream fails. Wire rules: one `data: ` line of JSON an event."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Final, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Send

from unmask_engine.request import RequestError
from unmask_server.errors import ServerError, error_body

log = logging.getLogger("unmask")

KEEP_ALIVE_S: Final = 15.0  # proxies close what is silent for a minute or less
KEEP_ALIVE: Final = b": keep-alive\n\n"
DONE: Final = b"data: [DONE]\n\n"
HEADERS: Final = {
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would hold audio back for seconds
}
T = TypeVar("T")


def event(data: Mapping[str, Any], name: str | None = None) -> bytes:
    """One event; `name` writes an `event:` line before it. ASCII, so that no client finds a line break inside."""
    head = f"event: {name}\n" if name is not None else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'), allow_nan=False)}\n\n".encode("ascii")


def sse_response(events: AsyncIterator[str | bytes], headers: Mapping[str, str] | None = None) -> StreamingResponse:
    """The framed events as a response; a client that goes away closes them.

    What they raise becomes an `{"error": ...}` event and `[DONE]`; to have it as an HTTP error, await `begun` first.
    """
    return ClosingStream(_with_failures(events), headers=HEADERS | dict(headers or {}), media_type="text/event-stream")


async def begun(events: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Waits for the first event, so that what goes wrong until then is raised while there still is a status to set."""
    first = await anext(events)
    return _chain(first, events)


async def _chain(first: T, rest: AsyncGenerator[T]) -> AsyncGenerator[T]:
    try:
        yield first
        async for item in rest:
            yield item
    finally:
        await rest.aclose()


class ClosingStream(StreamingResponse):
    """Closes what it streams as soon as the client is gone."""

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        finally:
            assert isinstance(self.body_iterator, AsyncGenerator)
            await self.body_iterator.aclose()


async def _with_failures(events: AsyncIterator[str | bytes]) -> AsyncGenerator[str | bytes]:
    kept_alive = _kept_alive(events)
    try:
        async for item in kept_alive:
            yield item
    except Exception as error:
        if not isinstance(error, RequestError | ServerError):
            log.error("a stream failed", exc_info=error)
        yield event(error_body(error))
        yield DONE
    finally:
        await kept_alive.aclose()


async def _kept_alive(events: AsyncIterator[str | bytes]) -> AsyncGenerator[str | bytes]:
    """The events, and a comment whenever none has come for a while."""
    pending = asyncio.ensure_future(_next(events))
    try:
        while True:
            while not (await asyncio.wait({pending}, timeout=KEEP_ALIVE_S))[0]:
                yield KEEP_ALIVE
            item = pending.result()
            if item is None:
                return
            yield item
            pending = asyncio.ensure_future(_next(events))
    finally:
        if not pending.done():
            pending.cancel()  # which closes the events, too
        elif isinstance(events, AsyncGenerator):
            await events.aclose()


async def _next(events: AsyncIterator[str | bytes]) -> str | bytes | None:
    return await anext(events, None)
