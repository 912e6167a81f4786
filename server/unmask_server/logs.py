"""Lines of the log, as text or as JSON, with the id of the request that they belong to. Bodies are never logged."""

import json
import logging
import re
import time
from contextvars import ContextVar
from typing import Literal

request_id: ContextVar[str] = ContextVar("request_id", default="")
trace_id: ContextVar[str] = ContextVar("trace_id", default="")

TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")  # W3C trace context
Format = Literal["text", "json"]


def configure_logs(level: str, form: Format) -> None:
    """Others' loggers stay at info: what libraries say at debug may quote bodies."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Text())
    wanted = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(handlers=[handler], level=max(wanted, logging.INFO))
    logging.getLogger("unmask").setLevel(wanted)
    logging.getLogger("uvicorn.error").addFilter(is_news)


def is_news(record: logging.LogRecord) -> bool:
    """uvicorn calls every WebSocket that is refused by a status an error of the application."""
    return record.msg != "ASGI callable returned without completing handshake."


def trace_id_of(traceparent: str) -> str:
    found = TRACEPARENT.fullmatch(traceparent)
    return found[1] if found else ""


def _context() -> dict[str, str]:
    ids = {"request_id": request_id.get(), "trace_id": trace_id.get()}
    return {name: value for name, value in ids.items() if value}


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return " ".join([super().formatMessage(record), *(f"{name}={value}" for name, value in _context().items())])


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
