"""`WS /v1/realtime` and the secrets that let browsers open it."""

import time
from collections.abc import Sequence
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.websockets import WebSocket

from unmask_server.admission import KEY_PROTOCOL, is_known
from unmask_server.bridge import EngineThread
from unmask_server.errors import ServerError, envelope
from unmask_server.realtime.config import Session, Wire, parsed
from unmask_server.realtime.connection import POLICY, TRY_LATER, hold
from unmask_server.realtime.events import JsonObject, error_event, new_id, read_object
from unmask_server.realtime.outbox import Outbox
from unmask_server.realtime.secrets import Secrets
from unmask_server.realtime.session import RealtimeSession
from unmask_server.realtime.unmasking import check_word_times
from unmask_server.settings import Settings

router = APIRouter()

SUBPROTOCOL: Final = "realtime"


class ExpiresAfter(Wire):
    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(default=600, ge=10, le=7200)


class SecretRequest(Wire):
    expires_after: ExpiresAfter = ExpiresAfter()
    session: dict[str, Any] = {}  # noqa: RUF012


@router.post("/v1/realtime/client_secrets")
async def create_client_secret(request: Request) -> JsonObject:
    """A key for a page in a browser: it opens sessions with these settings until it expires."""
    wanted = parsed(SecretRequest, read_object(await request.body() or b"{}"), "body")
    session = Session().updated(wanted.session)
    expires_at = int(time.time()) + wanted.expires_after.seconds
    secrets: Secrets = request.app.state.realtime_secrets
    bridge: EngineThread = request.app.state.bridge
    check_word_times(session.x_unmask, bridge.engine.bundle)
    echo = session.echo(new_id("sess"), bridge.engine.name, expires_at)
    return {"value": secrets.issue(session, expires_at), "expires_at": expires_at, "session": echo}


@router.websocket("/v1/realtime")
async def realtime(websocket: WebSocket) -> None:
    offered = websocket.scope["subprotocols"]
    try:
        session = _admitted(websocket, _given_key(websocket, offered))
    except ServerError as error:
        await _refuse(websocket, error, is_browser=SUBPROTOCOL in offered)
        return
    state = websocket.app.state
    settings: Settings = state.settings
    bridge: EngineThread = state.bridge
    await websocket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
    outbox = Outbox(websocket.send_text, settings.realtime.max_unsent_bytes)
    dialogue = RealtimeSession(
        outbox,
        bridge,
        session,
        model=bridge.engine.name,
        limits=settings.realtime,
        media=settings.media,
        media_slots=state.media_slots,
        metrics=state.metrics,
    )
    await hold(websocket, outbox, dialogue, state.drain, settings.realtime)


def _admitted(websocket: WebSocket, key: str) -> Session:
    """What the session begins with; raises ServerError. Any model name will do, since clients have their own."""
    state = websocket.app.state
    settings: Settings = state.settings
    secrets: Secrets = state.realtime_secrets
    session = secrets.session(key)
    if session is None:
        if settings.api_keys and not is_known(key, settings.api_keys):
            message = "This server asks for an API key: as `Authorization: Bearer <key>`, or as a subprotocol."
            raise ServerError(401, message, "invalid_api_key", {"www-authenticate": "Bearer"})
        if not settings.api_keys and _is_foreign_page(websocket, settings.cors_origins):
            message = "Pages of this origin may not talk to this server; it is told of them by --cors-origin."
            raise ServerError(403, message, "origin_not_allowed")
        session = Session()
    bridge: EngineThread = state.bridge
    bridge.engine  # noqa: B018  # raises while there is none
    if state.drain.num_open["websocket"] > settings.realtime.max_sessions:  # this one included
        message = f"{settings.realtime.max_sessions} sessions are open, as many as this server holds; try again later."
        raise ServerError(503, message, "overloaded", {"retry-after": str(settings.retry_after_s)})
    if websocket.query_params.get("intent") == "transcription":
        session = session.updated({"type": "transcription"})
    return session


def _given_key(websocket: WebSocket, offered: Sequence[str]) -> str:
    for protocol in offered:
        if protocol.startswith(KEY_PROTOCOL):
            return protocol.removeprefix(KEY_PROTOCOL)
    scheme, _, key = websocket.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _is_foreign_page(websocket: WebSocket, allowed: Sequence[str]) -> bool:
    """Any page may open a WebSocket to any server that its user can reach; browsers only say which page it is."""
    origin = websocket.headers.get("origin")
    if origin is None or origin in allowed or "*" in allowed:
        return False
    return urlsplit(origin).netloc != websocket.headers.get("host")


async def _refuse(websocket: WebSocket, error: ServerError, *, is_browser: bool) -> None:
    """By an HTTP status; a page in a browser cannot see that, so it is let in, told, and put out."""
    if not is_browser:
        response = envelope(error.status, error.message, error.code, headers=error.headers)
        await websocket.send_denial_response(response)
        return
    await websocket.accept(subprotocol=SUBPROTOCOL)
    await websocket.send_json(error_event(error))
    await websocket.close(POLICY if error.status < 500 else TRY_LATER, error.code)
