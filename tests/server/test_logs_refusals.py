"""Refusals of WebSockets are no errors of the server."""

import logging

from unmask_server.logs import is_news


def test_a_refused_websocket_is_no_error() -> None:
    def said(message: str) -> logging.LogRecord:
        return logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, message, (), None)

    assert not is_news(said("ASGI callable returned without completing handshake."))
    assert is_news(said("Exception in ASGI application\n"))
