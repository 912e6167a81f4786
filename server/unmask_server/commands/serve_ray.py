"""`unmask serve --ray`: the application on the cluster that `RAY_ADDRESS` names, or on one of its own."""

import logging
import os
import signal
import socket
import threading
from types import FrameType

from unmask_server.commands.exits import CommandError
from unmask_server.settings import Settings

NAME = "unmask"


class Stopped(BaseException):
    """Told to stop while it starts, which Ray would not notice: it may wait for a place for an engine for ever."""


def serve_ray(settings: Settings) -> None:
    """Blocks until the server is told to stop; then what runs may finish, for `shutdown_timeout` seconds."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers
    try:
        import ray
        from ray import serve
    except ImportError:
        raise CommandError("--ray needs Ray: pip install 'unmask[ray]'") from None
    from unmask_server.ray_app import application

    ends = threading.Event()
    is_starting = False

    def end(number: int, frame: FrameType | None) -> None:
        ends.set()
        if is_starting:
            raise Stopped

    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    # Where a cluster of its own is made: without the dashboard, which is ten processes more.
    ray.init(log_to_driver=True, logging_level=level, include_dashboard=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    port = settings.port or _free_port()
    serve.start(http_options={"host": settings.host, "port": port})
    try:
        app = application(settings)
        is_starting = True
        if not ends.is_set():
            serve.run(app, name=NAME, route_prefix="/")
        is_starting = False
        if not ends.is_set():
            print(f"Unmask serves {settings.model} at http://{settings.host}:{port} (API: /docs)", flush=True)
        ends.wait()
    except Stopped:
        pass
    finally:
        is_starting = False
        serve.delete(NAME)
        ray.shutdown()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
