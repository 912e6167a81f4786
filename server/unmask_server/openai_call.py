"""From an OpenAI endpoint's request to the engine and back: one call for a whole answer, one for its events."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TypeVar

from starlette.requests import Request

from unmask_engine.request import Generation, GenerationRequest
from unmask_server.connection import while_connected
from unmask_server.engine_client import EngineClient, Event, Queued, Wants
from unmask_server.openai_wire import naming
from unmask_server.sse import begun

T = TypeVar("T")


async def in_media_slot(request: Request, work: Callable[[], T]) -> T:
    """Media are decoded and encoded in threads, so many at a time."""
    slots: asyncio.Semaphore = request.app.state.media_slots
    async with slots:
        return await asyncio.to_thread(work)


async def whole(request: Request, work: GenerationRequest, names: Mapping[str, str]) -> Generation:
    """`names` are this endpoint's for the native `input` and `output`."""
    bridge: EngineClient = request.app.state.bridge
    with naming(names):
        return (await while_connected(request, bridge.generate(work))).generation


async def followed(
    request: Request, work: GenerationRequest, wants: Wants, names: Mapping[str, str]
) -> AsyncGenerator[Event]:
    """The events from Admitted on; what is wrong with the request is raised before there are any."""
    bridge: EngineClient = request.app.state.bridge
    with naming(names):
        return await while_connected(request, begun(_since_admission(bridge.stream(work, wants))))


async def _since_admission(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    try:
        async for event in events:
            if not isinstance(event, Queued):
                yield event
    finally:
        await events.aclose()
