"""Events: how those of clients are read, and what those of the server have in common."""

import json
import uuid
from typing import Any

from unmask_engine.request import RequestError
from unmask_server.errors import error_body

JsonObject = dict[str, Any]


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


def error_event(error: Exception, cause: Any = None) -> JsonObject:
    """`cause` is the `event_id` of the client's event that went wrong, if it had one."""
    body: JsonObject = error_body(error)["error"]
    return event("error", error={**body, "event_id": cause if isinstance(cause, str) else None})
