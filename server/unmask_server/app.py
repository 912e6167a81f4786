"""The application: routes, middleware, and the engine thread that lives as long as the app."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from unmask_server import generate, status
from unmask_server.bridge import EngineThread, GenerationEngine
from unmask_server.errors import install_error_handlers
from unmask_server.middleware import BodyLimit, RequestIds
from unmask_server.schema import GenerateRequest
from unmask_server.settings import Settings
from unmask_server.status import unmask_version

SCHEMA_REF = "#/components/schemas/{model}"


def create_app(load_engine: Callable[[], GenerationEngine], settings: Settings | None = None) -> FastAPI:
    """`load_engine` runs on the engine thread once the server listens; until it returns, `/ready` answers 503."""
    settings = settings or Settings()
    bridge = EngineThread(load_engine, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        bridge.start()
        yield
        await asyncio.to_thread(bridge.stop)

    app = FastAPI(
        title="Unmask",
        version=unmask_version(),
        description="Any-to-any generation by a masked discrete diffusion model.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.bridge = bridge
    app.state.media_slots = asyncio.Semaphore(settings.max_media_threads)
    app.include_router(generate.router)
    app.include_router(status.router)
    install_error_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequestIds)  # added last: outermost
    _document_body(app)
    return app


def _document_body(app: FastAPI) -> None:
    # The route reads its body itself (a bound while reading, JSON or multipart), so FastAPI cannot see the schema.
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make()
            schema = GenerateRequest.model_json_schema(ref_template=SCHEMA_REF)
            document["components"]["schemas"] |= schema.pop("$defs") | {"GenerateRequest": schema}
            ref = {"$ref": SCHEMA_REF.format(model="GenerateRequest")}
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
        return app.openapi_schema or document

    app.openapi = openapi  # type: ignore[method-assign]
