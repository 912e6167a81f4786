"""When a refused request is tried again, and after how long. The rules of the official openai client."""

import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

RETRIED = (408, 409, 429)  # and whatever is the server's fault
LONGEST_WAIT_S = 120.0  # a server that names a longer one does not want to be asked again
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 8.0


def wait_before_retry(
    attempt: int, status: int | None = None, headers: Mapping[str, str] | None = None
) -> float | None:
    """Seconds to wait before the next try, None to give up. `attempt` counts from 0; no status: no connection."""
    headers = headers or {}
    wanted = headers.get("x-should-retry")
    if wanted == "false":
        return None
    if wanted != "true" and status is not None and status < 500 and status not in RETRIED:
        return None
    asked = _asked_wait(headers)
    if asked is not None and asked > LONGEST_WAIT_S:
        return None
    if asked is not None and asked > 0:
        return asked
    return min(FIRST_BACKOFF_S * 2.0**attempt, LONGEST_BACKOFF_S) * random.uniform(0.75, 1)


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None
