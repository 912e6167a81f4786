"""`unmask serve`: uvicorn around the app, one line when it is ready."""

import logging
import socket

import uvicorn

from unmask_engine.bundle import find_bundle
from unmask_server.app import create_app
from unmask_server.bridge import GenerationEngine
from unmask_server.commands.device import pick_device
from unmask_server.commands.exits import CommandError, UsageError

BACKLOG = 2048  # connections the system holds for us
KEEP_ALIVE_S = 75  # above the idle time of clients' pools, or they reuse connections that are just being closed
SHUTDOWN_S = 10  # what running requests get to finish
LEVELS = ("critical", "error", "warning", "info", "debug")


def serve(model: str, *, device: str, host: str, port: int, log_level: str) -> None:
    """Blocks until the server is told to stop. Raises BundleError before it listens if there is no such bundle."""
    if log_level not in LEVELS:
        raise UsageError(f"--log-level {log_level}: it may be {', '.join(LEVELS)}")
    folder = find_bundle(model)
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    listener = _listen(host, port)
    url = _url(host, listener)
    failures: list[Exception] = []

    def load() -> GenerationEngine:
        from unmask_engine.engine import Engine  # torch comes in here, while the server listens already

        try:
            engine = Engine.load(folder, pick_device(device))
        except Exception as error:
            failures.append(error)
            server.should_exit = True
            raise
        if not server.should_exit:
            print(f"Unmask serves {engine.name} at {url} (API: /docs)", flush=True)
        return engine

    config = uvicorn.Config(
        create_app(load),
        log_level=log_level,
        access_log=log_level in ("info", "debug"),
        timeout_graceful_shutdown=SHUTDOWN_S,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    if failures:
        raise failures[0]


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        message = f"cannot listen on {host}:{port}: {error.strerror or error}; --port 0 takes any free port"
        raise CommandError(message) from None


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
