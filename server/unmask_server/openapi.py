"""What `/openapi.json` says beyond what FastAPI finds out by itself.

Some routes read their body themselves (a bound while reading, JSON or multipart), so its schema is added here; and so
are the errors that middleware answers with, on any route of the API.
"""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from unmask_server.openai_chat_schema import ChatRequest
from unmask_server.openai_completions import CompletionRequest
from unmask_server.openai_media_schema import ImageRequest, SpeechRequest, TranscriptionRequest
from unmask_server.openai_responses_schema import ResponsesRequest
from unmask_server.realtime.routes import SecretRequest
from unmask_server.schema import GenerateRequest

SCHEMA_REF = "#/components/schemas/{model}"
JSON_BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/audio/speech": SpeechRequest,
    "/v1/audio/transcriptions": TranscriptionRequest,
    "/v1/audio/translations": TranscriptionRequest,
    "/v1/images/generations": ImageRequest,
    "/v1/realtime/client_secrets": SecretRequest,
}
# Path -> the fields' model, the files of the form and whether each must be there.
FORMS: dict[str, tuple[type[BaseModel], dict[str, bool]]] = {
    "/v1/audio/transcriptions": (TranscriptionRequest, {"file": True}),
    "/v1/audio/translations": (TranscriptionRequest, {"file": True}),
    "/v1/images/edits": (ImageRequest, {"image": True, "mask": False}),
}
ERRORS = (400, 401, 404, 405, 408, 413, 415, 429, 500, 503)


def install_openapi(app: FastAPI) -> None:
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make()
            _add_native_body(document)
            for path, model in JSON_BODIES.items():
                _add_body(document, path, "application/json", _reference(document, model))
            for path, (model, files) in FORMS.items():
                _add_body(document, path, "multipart/form-data", _form(document, model, files))
            _add_errors(document)
        return app.openapi_schema or document

    app.openapi = openapi  # type: ignore[method-assign]


def _reference(document: dict[str, Any], model: type[BaseModel]) -> dict[str, str]:
    """Adds the model to the document."""
    schema = model.model_json_schema(ref_template=SCHEMA_REF)
    document["components"]["schemas"] |= schema.pop("$defs", {}) | {model.__name__: schema}
    return {"$ref": SCHEMA_REF.format(model=model.__name__)}


def _form(document: dict[str, Any], model: type[BaseModel], files: dict[str, bool]) -> dict[str, Any]:
    _reference(document, model)
    fields = document["components"]["schemas"][model.__name__]
    needed = [*fields.get("required", []), *(name for name, is_needed in files.items() if is_needed)]
    parts = {name: {"type": "string", "format": "binary"} for name in files}
    return {"type": "object", "properties": fields["properties"] | parts, "required": needed}


def _add_body(document: dict[str, Any], path: str, content_type: str, schema: dict[str, Any]) -> None:
    body = document["paths"][path]["post"].setdefault("requestBody", {"required": True, "content": {}})
    body["content"][content_type] = {"schema": schema}


def _add_native_body(document: dict[str, Any]) -> None:
    ref = _reference(document, GenerateRequest)
    document["paths"]["/v1/generate"]["post"]["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": ref},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"request": ref},
                    "required": ["request"],
                    "additionalProperties": {"type": "string", "format": "binary"},
                }
            },
        },
    }


def _add_errors(document: dict[str, Any]) -> None:
    content = {"application/json": {"schema": {"$ref": SCHEMA_REF.format(model="ErrorAnswer")}}}
    errors = {str(status): {"description": HTTPStatus(status).phrase, "content": content} for status in ERRORS}
    for path, operations in document["paths"].items():
        if path.startswith("/v1/"):
            for operation in operations.values():
                operation["responses"] = errors | operation["responses"]
