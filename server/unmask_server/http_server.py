"""uvicorn, but on SIGTERM running work finishes, and the head of a request must arrive in time."""

import asyncio
import logging
import os
from http import HTTPStatus
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from unmask_server.drain import Drain
from unmask_server.errors import envelope
from unmask_server.settings import Settings

log = logging.getLogger("unmask")

KEEP_ALIVE_S = 75  # above the idle time of clients' pools, or they reuse connections that are just being closed
HALF_CLOSED = envelope(
    400, "The connection was closed for sending before the answer; keep it open until then.", "client_closed"
)
CUT_SHORT_S = 1  # to tell those that did not finish in time


class Server(uvicorn.Server):
    """The first SIGTERM or SIGINT drains, the second ends the process at once."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            http=_protocol(settings.receive_timeout),
            ssl_certfile=settings.ssl_certfile or None,
            ssl_keyfile=settings.ssl_keyfile or None,
            log_config=None,
            access_log=False,  # middleware.py logs requests, with their ids
            timeout_graceful_shutdown=CUT_SHORT_S,
            timeout_keep_alive=KEEP_ALIVE_S,
            ws_max_size=2 * settings.realtime.max_message_bytes,
            ws_per_message_deflate=False,  # base64 of sound does not shrink
        )
        super().__init__(config)
        self._drain: Drain = app.state.drain
        self._shutdown_timeout = settings.shutdown_timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._num_signals = 0
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: Any = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._num_signals += 1
        if self._num_signals > 1:
            os._exit(128 + sig)
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._begin_to_end)

    def exit_in(self, seconds: float) -> None:
        """Whatever is running then is cut short; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._exit)

    def _begin_to_end(self) -> None:
        self._drain.begun.set()
        log.info("told to end: what runs may finish, for %g s", self._shutdown_timeout)
        self._ending = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        if not await self._drain.finished(self._shutdown_timeout):
            log.warning("not everything finished within %g s", self._shutdown_timeout)
        self._exit()

    def _exit(self) -> None:
        self.should_exit = True


def _protocol(head_timeout_s: float) -> type[HttpToolsProtocol]:
    class BoundedHead(HttpToolsProtocol):
        """Closes a connection on which a request's head does not arrive in time; uvicorn itself would wait forever.

        And tells who stops sending that it is taken to have left, since nothing says that it has not.
        """

        _due: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._due = self.loop.call_later(head_timeout_s, transport.close)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._due is None:
                self._due = self.loop.call_later(head_timeout_s, self.transport.close)

        def on_headers_complete(self) -> None:
            self._head_is_over()
            super().on_headers_complete()

        def eof_received(self) -> None:
            waits = self.cycle is not None and not self.cycle.response_started
            if waits and self.scheme == "http":  # TLS has no half
                self.transport.write(_as_bytes(HALF_CLOSED))

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_is_over()
            super().connection_lost(exc)

        def _head_is_over(self) -> None:
            if self._due is not None:
                self._due.cancel()
                self._due = None

    return BoundedHead


def _as_bytes(response: Response) -> bytes:
    status = HTTPStatus(response.status_code)
    lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode()), b"connection: close"]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body)
