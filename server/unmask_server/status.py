"""What a client or a load balancer asks before it sends work."""

import time
from functools import cache
from importlib.metadata import version

from fastapi import APIRouter, Request

from unmask_server.bridge import EngineThread
from unmask_server.schema import ModelCard, ModelList

router = APIRouter()
STARTED = int(time.time())


@cache
def unmask_version() -> str:
    return version("unmask")


@router.get("/health")
async def health() -> dict[str, str]:
    """The process lives; says nothing about the model."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """200 once the model is loaded, 503 before."""
    return {"status": "ready", "model": _bridge(request).engine.name}


@router.get("/version")
async def get_version() -> dict[str, str]:
    return {"name": "unmask", "version": unmask_version()}


@router.get("/v1/models")
async def models(request: Request) -> ModelList:
    engine = _bridge(request).engine
    tasks = [preset.task for preset in engine.bundle.presets]
    return ModelList(data=[ModelCard(id=engine.name, created=STARTED, tasks=tasks)])


def _bridge(request: Request) -> EngineThread:
    bridge: EngineThread = request.app.state.bridge
    return bridge
