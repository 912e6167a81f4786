"""What a client or a load balancer asks before it sends work."""

import time
from functools import cache
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel

from unmask_server.drain import Drain
from unmask_server.engine_client import EngineClient
from unmask_server.errors import ServerError
from unmask_server.metrics import Metrics
from unmask_server.models import check_model, served_names
from unmask_server.schema import ErrorAnswer, ModelCard, ModelList
from unmask_server.settings import Settings

router = APIRouter()
STARTED = int(time.time())
UNAVAILABLE: dict[int | str, dict[str, Any]] = {503: {"model": ErrorAnswer}}


class Load(BaseModel):
    """What there is to do and what there is room for; for load balancers."""

    waiting: int
    running: int
    tokens_in_flight: int  # rows of one forward pass
    sessions: int
    max_queue: int
    max_batch: int
    max_batch_tokens: int


@cache
def unmask_version() -> str:
    return version("unmask")


def gauges(bridge: EngineClient, drain: Drain) -> dict[str, float]:
    """The present values of what metrics.GAUGES names."""
    return {
        "num_requests_waiting": bridge.num_waiting,
        "num_requests_running": bridge.num_running,
        "tokens_in_flight": bridge.tokens_in_flight,
        "http_requests_in_flight": drain.num_open["http"],
        "websocket_connections_active": drain.num_open["websocket"],
    }


@router.get("/health", responses=UNAVAILABLE)
async def health(request: Request) -> dict[str, str]:
    """200 while the process can serve or may still come to it; 503 once its engine has failed: restart it."""
    if not _bridge(request).is_alive:
        raise ServerError(503, "The engine has failed; the server's log says why.", "engine_failed")
    return {"status": "ok"}


@router.get("/ready", responses=UNAVAILABLE)
async def ready(request: Request) -> dict[str, str]:
    """200 from the time when the model is loaded until the server is told to end."""
    name = served_names(request)[0]
    drain: Drain = request.app.state.drain
    if drain.begun.is_set():
        settings: Settings = request.app.state.settings
        raise ServerError(
            503, "The server is shutting down.", "not_ready", {"retry-after": str(settings.retry_after_s)}
        )
    return {"status": "ready", "model": name}


@router.get("/version")
async def get_version() -> dict[str, str]:
    return {"name": "unmask", "version": unmask_version()}


@router.get("/load")
async def load(request: Request) -> Load:
    bridge, settings = _bridge(request), request.app.state.settings
    drain: Drain = request.app.state.drain
    return Load(
        waiting=bridge.num_waiting,
        running=bridge.num_running,
        tokens_in_flight=bridge.tokens_in_flight,
        sessions=drain.num_open["websocket"],
        max_queue=settings.max_queue,
        max_batch=settings.max_batch,
        max_batch_tokens=settings.max_batch_tokens,
    )


@router.get("/metrics", response_class=Response)
async def get_metrics(request: Request) -> Response:
    """For Prometheus."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.page(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/v1/models")
@router.get("/v1/models/", include_in_schema=False)  # which would be a model without a name
async def models(request: Request) -> ModelList:
    return ModelList(data=[_card(name, request) for name in served_names(request)])


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> ModelCard:
    return _card(check_model(name, request), request)


def _card(name: str, request: Request) -> ModelCard:
    tasks = [preset.task for preset in _bridge(request).engine.bundle.presets]
    return ModelCard(id=name, created=STARTED, tasks=tasks)


def _bridge(request: Request) -> EngineClient:
    bridge: EngineClient = request.app.state.bridge
    return bridge
