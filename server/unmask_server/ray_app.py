"""Unmask on Ray Serve: HTTP and WebSockets in one kind of replica, engines in another, one a GPU.

    unmask serve --ray
    serve deploy docker/serve.yaml    # names `build` of this file

A dialogue is one connection, so it stays with one ingress; the engines know nothing from one request to the next.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import ray
from fastapi import FastAPI
from ray import serve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unmask_server.app import app_around
from unmask_server.commands.exits import UsageError
from unmask_server.drain import Drain
from unmask_server.engine_protocol import GenerationEngine
from unmask_server.load_engine import load_engine
from unmask_server.logs import configure_logs
from unmask_server.metrics import Metrics
from unmask_server.options import flag_name, flags
from unmask_server.ray_engine import RayEngine
from unmask_server.ray_replica import EngineReplica
from unmask_server.settings import Settings
from unmask_server.status import unmask_version

ENGINE: Final = "engine"
INGRESS: Final = "ingress"
MAX_CONNECTIONS: Final = 4096  # of an ingress; a dialogue is one for all its life
BUSY: Final = 0.75  # of the requests that an engine decodes together: above it Ray starts another one
SCALING: Final = {"upscale_delay_s": 30, "downscale_delay_s": 600}


def build(args: Mapping[str, Any]) -> Any:
    """The application for `serve run` and `serve deploy`; `args` are the keys of a configuration file."""
    return application(_settings(args))


def application(
    settings: Settings,
    load: Callable[[Settings], GenerationEngine] = load_engine,
    scaling: Mapping[str, float] = SCALING,
) -> Any:
    """What `serve.run` takes. `load` runs in each engine's process."""
    if settings.max_engines < settings.min_engines:
        raise UsageError(f"max-engines {settings.max_engines} is below min-engines {settings.min_engines}")
    if settings.device.startswith("cuda:"):
        raise UsageError(f"device {settings.device}: Ray chooses the GPUs; say cuda")
    if settings.ssl_certfile:
        raise UsageError("ssl-certfile: Ray's proxy speaks HTTP only; put TLS in front of it")
    engines: dict[str, Any] = {"num_replicas": settings.min_engines}
    if settings.max_engines > settings.min_engines:
        target = max(1.0, BUSY * settings.max_batch)
        bounds = {"min_replicas": settings.min_engines, "max_replicas": settings.max_engines}
        engines = {"autoscaling_config": {**bounds, "target_ongoing_requests": target, **scaling}}
    engine = serve.deployment(EngineReplica).options(
        name=ENGINE,
        **engines,
        ray_actor_options={"num_gpus": _gpus(settings)},
        max_ongoing_requests=settings.max_batch,
        max_queued_requests=max(1, settings.max_queue),  # of each ingress; at 0 Ray would refuse everything
        graceful_shutdown_timeout_s=settings.shutdown_timeout,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5,
    )

    def ingress_app() -> ASGIApp:
        return _ingress_app(settings)

    ingress = serve.deployment(serve.ingress(ingress_app)()).options(
        name=INGRESS,
        ray_actor_options={"num_cpus": 0},  # or it would wait forever where engines take all cores of the cluster
        max_ongoing_requests=MAX_CONNECTIONS,
        graceful_shutdown_timeout_s=settings.shutdown_timeout,
        graceful_shutdown_wait_loop_s=0.5,
    )
    return ingress.bind(engine.bind(settings, load))


class WithoutRequestId:
    """Ray's proxy gives each request an id, which the app reads, and adds it to the response itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message["headers"] if name.lower() != b"x-request-id"]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, without_id)


def _ingress_app(settings: Settings) -> FastAPI:
    configure_logs(settings.log_level, settings.log_format)
    metrics, drain = Metrics(unmask_version()), Drain()
    app_name = serve.get_replica_context().app_name
    handle = serve.get_deployment_handle(ENGINE, app_name)
    app = app_around(RayEngine(handle, settings, metrics, drain, app_name), settings, metrics, drain)
    app.add_middleware(WithoutRequestId)
    return app


def _gpus(settings: Settings) -> int:
    if settings.device == "cpu" or (settings.device == "auto" and not ray.cluster_resources().get("GPU")):
        return 0
    return settings.tensor_parallel


def _settings(values: Mapping[str, Any]) -> Settings:
    by_key = {flag_name(setting): setting for setting in flags()}
    if unknown := sorted(set(values) - set(by_key)):
        raise UsageError(f"unknown {', '.join(unknown)}; there are {', '.join(by_key)}")
    made: dict[str, Any] = {}
    for key, value in values.items():
        setting = by_key[key]
        wanted = type(setting.default)
        if wanted is float and type(value) is int:
            value = float(value)
        if wanted is tuple and isinstance(value, list):
            value = tuple(value)
        if type(value) is not wanted:
            raise UsageError(f"{key}: {value!r} should be of type {'list' if wanted is tuple else wanted.__name__}")
        made[setting.name] = value
    return Settings(**made)
