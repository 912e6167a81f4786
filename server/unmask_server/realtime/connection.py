"""The life of one connection: events in, events out, and the reasons to end it."""

import asyncio
import contextlib
import logging
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from unmask_engine.request import RequestError
from unmask_server.drain import Drain
from unmask_server.errors import ServerError
from unmask_server.realtime.events import error_event
from unmask_server.realtime.limits import RealtimeLimits
from unmask_server.realtime.outbox import Outbox
from unmask_server.realtime.session import RealtimeSession

log = logging.getLogger("unmask")

POLICY: Final = 1008
GOING_AWAY: Final = 1001  # clients connect again
TRY_LATER: Final = 1013
FAILED: Final = 1011
POLL_S: Final = 0.05


class Ended(Exception):
    """Why the server ends a session; `error` is told before it."""

    def __init__(self, close_code: int, reason: str, error: ServerError | None = None) -> None:
        super().__init__(reason)
        self.close_code, self.reason, self.error = close_code, reason, error


async def hold(
    websocket: WebSocket, outbox: Outbox, session: RealtimeSession, drain: Drain, limits: RealtimeLimits
) -> None:
    """Until either side ends it; the websocket is accepted, and closed after this."""
    ends: Ended | None = Ended(FAILED, "the server failed on this session; its log has the reason")
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(outbox.run())
            tasks.create_task(_read(websocket, session, limits))
            tasks.create_task(_expire(limits))
            tasks.create_task(_drained(drain, session))
            tasks.create_task(_overflowed(outbox))
    except* WebSocketDisconnect:
        ends = None
    except* Ended as group:
        ends = next(error for error in group.exceptions if isinstance(error, Ended))
    except* Exception:
        log.exception("a realtime session failed")
    finally:
        session.close()
    if ends is not None:
        await _say_goodbye(websocket, outbox, ends, limits)


async def _read(websocket: WebSocket, session: RealtimeSession, limits: RealtimeLimits) -> None:
    while True:
        try:
            async with asyncio.timeout(limits.max_idle_s):
                message = await websocket.receive()
        except TimeoutError:
            error = ServerError(408, f"Nothing was heard for {limits.max_idle_s:g} seconds.", "session_idle")
            raise Ended(POLICY, "idle", error) from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"])
        text = message.get("text") or ""
        if len(text) > limits.max_message_bytes:  # what has so many characters has at least as many bytes
            reason = f"A message has at most {limits.max_message_bytes:,} bytes."
            session.refuse(RequestError(reason, code="message_too_large"))
        else:
            await session.handle(text)


async def _expire(limits: RealtimeLimits) -> None:
    await asyncio.sleep(limits.max_session_s)
    message = f"A session lasts at most {limits.max_session_s:g} seconds; connect again."
    raise Ended(
        GOING_AWAY, "the session has lasted as long as sessions do", ServerError(408, message, "session_expired")
    )


async def _drained(drain: Drain, session: RealtimeSession) -> None:
    await drain.begun.wait()
    while session.is_busy:
        await asyncio.sleep(POLL_S)
    raise Ended(GOING_AWAY, "the server is shutting down")


async def _overflowed(outbox: Outbox) -> None:
    await outbox.overflowed.wait()
    raise Ended(TRY_LATER, "too much was left unread")


async def _say_goodbye(websocket: WebSocket, outbox: Outbox, ended: Ended, limits: RealtimeLimits) -> None:
    if ended.error is not None:
        outbox.put(error_event(ended.error))
    sender = asyncio.create_task(outbox.run())
    with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
        async with asyncio.timeout(limits.flush_s):
            await outbox.flushed()
            await websocket.close(ended.close_code, ended.reason)
    sender.cancel()
