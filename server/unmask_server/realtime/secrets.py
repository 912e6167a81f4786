"""Keys for browsers: short-lived, held in memory, each with the session it opens."""

import secrets
import time
from dataclasses import dataclass
from typing import Final

from unmask_server.realtime.config import Session

MAX_SECRETS: Final = 10_000  # the oldest ones leave


@dataclass(frozen=True)
class _Issued:
    session: Session
    expires_at: int


class Secrets:
    def __init__(self) -> None:
        self._issued: dict[str, _Issued] = {}

    def issue(self, session: Session, expires_at: int) -> str:
        now = time.time()
        self._issued = {value: issued for value, issued in self._issued.items() if issued.expires_at > now}
        while len(self._issued) >= MAX_SECRETS:
            del self._issued[next(iter(self._issued))]
        value = f"ek_{secrets.token_hex(24)}"
        self._issued[value] = _Issued(session, expires_at)
        return value

    def session(self, value: str) -> Session | None:
        """What the secret opens, while it is good."""
        issued = self._issued.get(value)
        return issued.session if issued is not None and issued.expires_at > time.time() else None
