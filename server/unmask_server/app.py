"""The application: routes, middleware, and the engine thread that lives as long as the app."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline

from unmask_server import (
    generate,
    openai_chat,
    openai_completions,
    openai_images,
    openai_responses,
    openai_speech,
    openai_transcriptions,
    openai_voices,
    status,
)
from unmask_server.admission import Admission
from unmask_server.bridge import EngineThread
from unmask_server.drain import Drain
from unmask_server.engine_client import EngineClient
from unmask_server.engine_protocol import GenerationEngine
from unmask_server.errors import install_error_handlers
from unmask_server.metrics import Metrics
from unmask_server.middleware import BodyLimit, Observed, RequestIds
from unmask_server.openapi import install_openapi
from unmask_server.playground import mount_playground
from unmask_server.realtime.routes import router as realtime_router
from unmask_server.realtime.secrets import Secrets
from unmask_server.remote_media import RemoteMedia
from unmask_server.settings import Settings
from unmask_server.spoken_replies import SpokenReplies
from unmask_server.status import gauges, unmask_version
from unmask_server.tracing import Traced, Tracing

ROUTERS = (
    generate.router,  # what is asked for most comes first
    openai_chat.router,
    openai_completions.router,
    openai_images.router,
    openai_responses.router,
    openai_speech.router,
    openai_transcriptions.router,
    openai_voices.router,
    realtime_router,
    status.router,
)


def create_app(
    load_engine: Callable[[], GenerationEngine],
    settings: Settings | None = None,
    on_crash: Callable[[], None] = lambda: None,
) -> FastAPI:
    """With an engine in this process. `load_engine` runs on its thread once the server listens; until it returns,
    `/ready` answers 503.

    `on_crash` is called on that thread when it ends before its time; from then on `/health` answers 503.
    """
    settings = settings or Settings()
    metrics = Metrics(unmask_version())
    return app_around(EngineThread(load_engine, settings, metrics, on_crash), settings, metrics, Drain())


def app_around(bridge: EngineClient, settings: Settings, metrics: Metrics, drain: Drain) -> FastAPI:
    """The routes before an engine, wherever it is; started and stopped with the app."""
    metrics.show(lambda: gauges(bridge, drain))

    tracing = Tracing(settings.otlp_endpoint, unmask_version()) if settings.otlp_endpoint else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        bridge.start()
        yield
        await asyncio.to_thread(bridge.stop)
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    app = FastAPIOffline(
        title="Unmask",
        version=unmask_version(),
        description="Any-to-any generation by a masked discrete diffusion model.",
        lifespan=lifespan,
        docs_url="/docs",
        redoc_url=None,
        routes=[route for router in ROUTERS for route in router.routes],  # to include them takes 0.1 ms of a request
        telemetry={"tracing": False, "metrics": False, "logs": False},  # tracing.py and metrics.py are for that
    )
    app.state.settings = settings
    app.state.bridge = bridge
    app.state.drain = drain
    app.state.metrics = metrics
    app.state.media_slots = asyncio.Semaphore(settings.max_media_threads)
    app.state.remote_media = RemoteMedia(settings.allowed_media_domains, settings.media.max_bytes)
    app.state.spoken_replies = SpokenReplies()
    app.state.realtime_secrets = Secrets()
    mount_playground(app)
    install_error_handlers(app)
    # Each is added around those before it.
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, timeout_s=settings.receive_timeout)
    app.add_middleware(Admission, settings=settings, drain=drain, metrics=metrics)
    app.add_middleware(Observed, metrics=metrics)
    app.add_middleware(RequestIds)
    if tracing is not None:
        app.add_middleware(Traced, tracing=tracing)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "x-unmask-warning", "retry-after"],
        )
    install_openapi(app)
    return app
