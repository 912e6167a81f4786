"""Who may use the API, and when: a key, a rate, and nobody any more once the server ends.

All of it is about `/v1`; health, metrics and documentation are open to everyone.
"""

import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from unmask_server.drain import Drain
from unmask_server.errors import ServerError, envelope
from unmask_server.metrics import Metrics
from unmask_server.settings import Settings

GUARDED = "/v1/"
# How a page in a browser sends its key with a WebSocket: it cannot set headers. Never sent back.
KEY_PROTOCOL = "openai-insecure-api-key."
OPEN_PATHS = ("/v1/audio/voices", "/v1/audio/models")  # clients ask for these without their key
READING = ("GET", "HEAD", "OPTIONS")  # costs nothing: neither rated nor refused while the server ends
MAX_BUCKETS = 10_000  # callers that are remembered


class Admission:
    def __init__(self, app: ASGIApp, settings: Settings, drain: Drain, metrics: Metrics) -> None:
        self.app = app
        self._keys = settings.api_keys
        self._rate = Rate(settings.requests_per_minute) if settings.requests_per_minute else None
        self._retry_after = str(settings.retry_after_s)
        self._drain = drain
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        path = scope["path"].removeprefix(scope.get("root_path", "")) if kind != "lifespan" else ""
        if not path.startswith(GUARDED):
            await self.app(scope, receive, send)
            return
        is_work = kind == "websocket" or scope["method"] not in READING
        try:
            is_open = not is_work and path in OPEN_PATHS
            if kind == "websocket":  # whose route authenticates
                who = self._caller(scope)
            else:
                who = _address(scope) if is_open else self._authenticated(scope)
            if is_work:
                self._admit(who)
        except ServerError as error:
            self._metrics.rejected(error.code)
            await envelope(error.status, error.message, error.code, headers=error.headers)(scope, receive, send)
            return
        with self._drain.open(kind):
            await self.app(scope, receive, send)

    def _authenticated(self, scope: Scope) -> str:
        """Whose rate counts: the key's, or the address's where there are no keys."""
        if not self._keys:
            return _address(scope)
        key = _bearer(scope)
        if key is None or not is_known(key, self._keys):
            message = "This server asks for an API key: send it as `Authorization: Bearer <key>`."
            raise ServerError(401, message, "invalid_api_key", {"www-authenticate": "Bearer"})
        return key

    def _caller(self, scope: Scope) -> str:
        """Whose rate counts for a dialogue: the key's, also as a subprotocol; the address's for any other key."""
        given = [name.removeprefix(KEY_PROTOCOL) for name in scope["subprotocols"] if name.startswith(KEY_PROTOCOL)]
        key = given[0] if given else _bearer(scope)
        return key if key is not None and is_known(key, self._keys) else _address(scope)

    def _admit(self, who: str) -> None:
        if self._drain.begun.is_set():
            headers = {"retry-after": self._retry_after, "connection": "close"}
            raise ServerError(503, "The server is shutting down; try again, or another one.", "not_ready", headers)
        wait_s = self._rate.take(who) if self._rate is not None else 0.0
        if wait_s > 0:
            seconds = math.ceil(wait_s)
            message = f"Too many requests; the next one may come in {seconds} s."
            raise ServerError(429, message, "rate_limit_exceeded", {"retry-after": str(seconds)})


def is_known(key: str, known: Sequence[str]) -> bool:
    """All keys are compared, and each in constant time, so that the time tells nothing about them."""
    return sum(hmac.compare_digest(key.encode(), other.encode()) for other in known) > 0


def _bearer(scope: Scope) -> str | None:
    scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _address(scope: Scope) -> str:
    return str((scope.get("client") or ("",))[0])


class Rate:
    """A bucket of a minute's requests for each caller, which fills at an even rate."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = 60 / per_minute
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()  # who asked last is last

    def take(self, who: str) -> float:
        """0, and the request counts; or the seconds until there is room for it."""
        now = self._clock()
        before = self._full_at.pop(who, now)
        full_at = max(now, before) + self._interval
        is_over = full_at > now + 60 + 1e-9
        self._full_at[who] = before if is_over else full_at
        if len(self._full_at) > MAX_BUCKETS:  # whoever has asked for nothing for the longest time gets a new bucket
            self._full_at.popitem(last=False)
        return full_at - now - 60 if is_over else 0.0
