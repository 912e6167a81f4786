"""Work that nobody waits for any more is not done."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from starlette.requests import Request

from unmask_server.errors import CLIENT_LEFT, ServerError

T = TypeVar("T")
WATCH_AFTER_S: Final = 0.02  # what is done sooner costs less than to watch for who leaves


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Runs `work`, and cancels it when the client goes away. The body must have been read."""
    loop, watcher = asyncio.get_running_loop(), None

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        connected.reschedule(loop.time())

    def begin() -> None:
        nonlocal watcher
        watcher = asyncio.ensure_future(watch())

    timer = loop.call_later(WATCH_AFTER_S, begin)
    try:
        async with asyncio.timeout(None) as connected:
            return await work
    except TimeoutError:
        if not connected.expired():
            raise
        raise ServerError(CLIENT_LEFT, "The client closed the connection.", "client_closed") from None
    finally:
        timer.cancel()
        if watcher is not None:
            watcher.cancel()
