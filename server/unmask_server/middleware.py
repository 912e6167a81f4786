"""What every request passes: a request id, bounds on its body, a count, and no leak of what went wrong."""

import asyncio
import logging
import re
import time
import uuid
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unmask_engine.request import RequestError
from unmask_server import logs
from unmask_server.errors import CLIENT_LEFT, NO_RETRY, ServerError, envelope
from unmask_server.metrics import Metrics

log = logging.getLogger("unmask")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestIds:
    """Gives each response an `x-request-id`, the caller's own where well formed, and makes a crash a plain 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        logs.request_id.set(request_id)
        logs.trace_id.set(logs.trace_id_of(headers.get("traceparent", "")))
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the server stops and has waited for this request as long as it does
            if started or scope["type"] != "http":
                raise
            message = "The server is shutting down and could not finish this request."
            await envelope(503, message, "not_ready", headers={"retry-after": "1"})(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if started or scope["type"] != "http":
                raise
            message = f"The server failed on this request; its log has the reason under {request_id}."
            await envelope(500, message, "internal_error", headers=NO_RETRY)(scope, receive, send_with_id)


class Observed:
    """Counts responses, and times them, by the route's template; one line of the log for each."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), CLIENT_LEFT

        async def send_seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_seen)
        except Exception:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            raise
        finally:
            seconds = time.perf_counter() - began
            handler = getattr(scope.get("route"), "path", "none")
            self._metrics.responded(scope["method"], handler, status, seconds)
            path = scope.get("raw_path", b"").decode("latin-1")  # as it was sent: no line breaks
            log.info("%s %s %d %.1f ms", scope["method"], path, status, 1e3 * seconds)


class BodyLimit:
    """Refuses a body above `max_bytes`: at once where its length is announced, else as soon as it is exceeded.

    And one that has not arrived after `timeout_s`.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self._timeout_s = timeout_s

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
        due: float | None = asyncio.get_running_loop().time() + self._timeout_s

        async def bounded_receive() -> Message:
            nonlocal seen, due
            if due is None:  # all that can come is that the client leaves
                return await receive()
            try:
                async with asyncio.timeout_at(due):
                    message = await receive()
            except TimeoutError:
                text = f"The body did not arrive within {self._timeout_s:g} s."
                raise ServerError(HTTPStatus.REQUEST_TIMEOUT, text, "body_timeout", {"connection": "close"}) from None
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self.max_bytes:
                    raise self._error()
                if not message.get("more_body", False):
                    due = None
            return message

        await self.app(scope, bounded_receive, send)

    def _error(self) -> RequestError:
        return RequestError(
            f"The request is larger than {self.max_bytes:,} bytes, the most this server takes.",
            code="request_too_large",
        )
