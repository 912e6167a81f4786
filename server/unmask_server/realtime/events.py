"""Events: how those of clients are read, and what those of the server have in common."""

import json
import uuid
from typing import Any, Final

from unmask_engine.request import RequestError
from unmask_server.errors import error_body

JsonObject = dict[str, Any]

MAX_ECHO: Final = 1000  # characters of what a client has sent, within an error


def read_object(text: str | bytes) -> JsonObject:
    """Raises RequestError."""
    try:
        wire = json.loads(text)
    except (ValueError, RecursionError):
        raise RequestError("That is not valid JSON.", code="invalid_json") from None
    if not isinstance(wire, dict):
        raise RequestError("It must be a JSON object.", code="invalid_json")
    return wire


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex[:24]}"


def event(kind: str, **fields: Any) -> JsonObject:
    return {"type": kind, "event_id": new_id("event"), **fields}


def error_json(error: Exception) -> JsonObject:
    """Type, code, message and param; a client's own words come back cut to what any reader takes."""
    body: JsonObject = error_body(error)["error"]
    return body | {name: _cut(body[name]) for name in ("message", "param")}


def error_event(error: Exception, cause: Any = None) -> JsonObject:
    """`cause` is the `event_id` of the client's event that went wrong, if it had one; no id is cut."""
    is_id = isinstance(cause, str) and len(cause) <= MAX_ECHO
    return event("error", error={**error_json(error), "event_id": cause if is_id else None})


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= MAX_ECHO else f"{text[:MAX_ECHO]}…"
