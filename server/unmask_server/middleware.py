"""What every request passes: a request id, a bound on the body while it is read, and no leak of what went wrong."""

import asyncio
import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unmask_engine.request import RequestError
from unmask_server.errors import envelope

log = logging.getLogger("unmask")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestIds:
    """Gives each response an `x-request-id`, the caller's own where well formed, and makes a crash a plain 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the server stops and has waited for this request as long as it does
            if started:
                raise
            message = "The server is shutting down and could not finish this request."
            await envelope(503, message, "not_ready", headers={"retry-after": "1"})(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if started:
                raise
            message = f"The server failed on this request; its log has the reason under {request_id}."
            await envelope(500, message, "internal_error")(scope, receive, send_with_id)


class BodyLimit:
    """Refuses a body above `max_bytes`: at once where its length is announced, else as soon as it is exceeded."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > self.max_bytes:
            error = self._error()
            await envelope(413, error.message, error.code)(scope, receive, send)
            return
        seen = 0

        async def bounded_receive() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self.max_bytes:
                    raise self._error()
            return message

        await self.app(scope, bounded_receive, send)

    def _error(self) -> RequestError:
        return RequestError(
            f"The request is larger than {self.max_bytes:,} bytes, the most this server takes.",
            code="request_too_large",
        )
