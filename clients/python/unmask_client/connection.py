"""Where the server is and how it is spoken to: what both clients are told."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

GENERATE = "/v1/generate"
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Connection:
    """`timeout` is in seconds, between two signs of life. The key is, by default, that of UNMASK_API_KEY."""

    base_url: str = "http://127.0.0.1:8000"
    api_key: str | None = None
    timeout: float = 600.0
    max_retries: int = 2

    @property
    def headers(self) -> Mapping[str, str]:
        key = self.api_key or os.environ.get("UNMASK_API_KEY")
        return {"authorization": f"Bearer {key}"} if key else {}

    def realtime_url(self, model: str | None) -> str:
        scheme, _, rest = self.base_url.rstrip("/").partition("://")
        query = f"?{urlencode({'model': model})}" if model else ""
        return f"{'wss' if scheme == 'https' else 'ws'}://{rest}/v1/realtime{query}"
