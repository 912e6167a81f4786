"""One envelope for every error: `{"error": {"message", "type", "param", "code"}}`."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from unmask_engine.request import RequestError
from unmask_server.schema import UNION_BRANCHES

# Which status a RequestError's code stands for; any other is 400.
STATUS_OF_CODE = {
    "model_not_found": HTTPStatus.NOT_FOUND,
    "request_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "media_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "unsupported_media": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "unsupported_media_type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}
TYPE_OF_STATUS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}

NO_RETRY = {"x-should-retry": "false"}  # clients that retry by themselves obey it
CLIENT_LEFT = 499  # nobody reads it; it is what logs show


class ServerError(Exception):
    """A failure that is not the caller's: the status and headers to answer with."""

    def __init__(self, status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return ServerError, (self.status, self.message, self.code, self.headers)


def envelope(
    status: int, message: str, code: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(_body(status, message, code, param), status_code=status, headers=dict(headers or {}))


def error_body(error: Exception) -> dict[str, Any]:
    """The envelope of what went wrong once a stream has begun and no status can be set any more."""
    if isinstance(error, RequestError):
        return _body(_status(error), error.message, error.code, error.param)
    if isinstance(error, ServerError):
        return _body(error.status, error.message, error.code)
    message = "The server failed on this request; its log has the reason."
    return _body(HTTPStatus.INTERNAL_SERVER_ERROR, message, "internal_error")


def _body(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    kind = TYPE_OF_STATUS.get(status, kind)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _status(error: RequestError) -> int:
    return STATUS_OF_CODE.get(error.code, HTTPStatus.BAD_REQUEST)


def invalid(error: ValidationError) -> RequestError:
    """The first thing wrong with a body, as an error that names the field and says what it may be."""
    detail = error.errors(include_url=False, include_input=False)[0]
    param = _param(detail["loc"])
    if detail["type"] == "json_invalid":
        return RequestError(f"The body is not valid JSON: {_sentence(detail['msg'])}.", code="invalid_json")
    if detail["type"] == "extra_forbidden":
        return RequestError(
            f"{param} is not a known field; it was refused because ignoring it could change the result.",
            param=param,
            code="unknown_field",
        )
    where = f"{param}: " if param else ""
    return RequestError(f"{where}{_sentence(detail['msg'])}.", param=param, code="invalid_value")


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(ServerError, _on_server_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_client_left)


async def _on_request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return envelope(_status(error), error.message, error.code, error.param)


async def _on_server_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServerError)
    return envelope(error.status, error.message, error.code, headers=error.headers)


async def _on_client_left(_: Request, error: Exception) -> Response:
    return envelope(CLIENT_LEFT, "The client closed the connection.", "client_closed")


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = error.headers or {}
    path = request.url.path[:200]
    if error.status_code == HTTPStatus.NOT_FOUND:
        return envelope(error.status_code, f"There is nothing at {path}; see /docs.", "not_found", headers=headers)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = headers.get("allow", headers.get("Allow", "other methods"))
        message = f"{path} does not take {request.method}; it takes {allowed}."
        return envelope(error.status_code, message, "method_not_allowed", headers=headers)
    return envelope(error.status_code, str(error.detail), "invalid_request", headers=headers)


def _param(location: Sequence[int | str]) -> str | None:
    fields = [part for part in location if part not in UNION_BRANCHES]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fields)
    return path.removeprefix(".") or None


def _sentence(message: str) -> str:
    message = message.removeprefix("Value error, ").rstrip(".")
    return message[:1].lower() + message[1:]
