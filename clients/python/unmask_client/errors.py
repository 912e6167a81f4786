"""What can go wrong, as exceptions: no answer, or an answer that says what is wrong."""

import json
from collections.abc import Mapping
from typing import Any

import httpx


class UnmaskError(Exception):
    """Anything that this package raises on purpose."""


class APIConnectionError(UnmaskError):
    """The server could not be reached, or the connection broke."""


class APITimeoutError(APIConnectionError):
    """The server did not answer within the client's timeout."""


class APIError(UnmaskError):
    """The server said no. `status` is None where a stream failed that had begun well."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id


class BadRequestError(APIError):
    """The request cannot be served as it is: most 4xx."""


class AuthenticationError(APIError):
    """401 or 403: the API key is missing or wrong."""


class NotFoundError(APIError):
    """404: there is no such model or page."""


class RateLimitError(APIError):
    """429: too many requests of this caller."""


class ServerError(APIError):
    """5xx: the server failed, or is full or not ready (503)."""


def connection_error(error: httpx.TransportError) -> APIConnectionError:
    kind = APITimeoutError if isinstance(error, httpx.TimeoutException) else APIConnectionError
    return kind(f"{error.request.url}: {str(error) or type(error).__name__}")


def error_of_answer(status: int, headers: Mapping[str, str], body: bytes) -> APIError:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    return error_of_envelope(answer, status=status, request_id=headers.get("x-request-id"))


def error_of_envelope(answer: Any, *, status: int | None, request_id: str | None) -> APIError:
    """`answer` should be `{"error": {...}}`; a proxy in between may have sent anything."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        error = {"message": f"the server answered {status} without saying why"}
    kind = _kind(status)
    message = str(error.get("message") or "the server did not say why")
    return kind(message, status=status, code=error.get("code"), param=error.get("param"), request_id=request_id)


def _kind(status: int | None) -> type[APIError]:
    if status is None:
        return APIError
    named = {401: AuthenticationError, 403: AuthenticationError, 404: NotFoundError, 429: RateLimitError}
    return named.get(status, ServerError if status >= 500 else BadRequestError)
