"""`unmask serve`: the app behind a socket, one line when it is ready."""

import os
import socket

from unmask_engine.bundle import find_bundle
from unmask_server.app import create_app
from unmask_server.bridge import EngineThread
from unmask_server.commands.device import pick_device
from unmask_server.commands.exits import CommandError, UsageError
from unmask_server.engine_protocol import GenerationEngine
from unmask_server.http_server import Server
from unmask_server.logs import configure_logs
from unmask_server.settings import Settings

BACKLOG = 2048  # connections the system holds for us


def serve(settings: Settings) -> None:
    """Blocks until the server is told to stop. Raises BundleError before it listens if there is no such bundle."""
    if any(not key.strip() for key in settings.api_keys):
        raise UsageError("--api-key: a key is empty")
    folder = find_bundle(settings.model)
    configure_logs(settings.log_level, settings.log_format)
    listener = _listen(settings.host, settings.port)
    url = _url(settings.host, listener)
    failures: list[Exception] = []

    def load() -> GenerationEngine:
        from unmask_engine.engine import Engine  # torch comes in here, while the server listens already
        from unmask_engine.scheduler import Policy

        try:
            policy = Policy(token_budget=settings.max_batch_tokens)
            engine = Engine.load(folder, pick_device(settings.device), policy)
        except Exception as error:
            failures.append(error)
            server.exit_in(0)
            raise
        if not server.should_exit:
            print(f"Unmask serves {engine.name} at {url} (API: /docs)", flush=True)
        return engine

    def on_crash() -> None:
        failures.append(CommandError("the engine crashed; the log says why"))
        server.exit_in(settings.exit_on_engine_failure)

    app = create_app(load, settings, on_crash)
    server = Server(app, settings)
    server.run(sockets=[listener])
    if failures:
        raise failures[0]
    bridge: EngineThread = app.state.bridge
    if bridge.is_at_work:  # in a load or a step that nothing interrupts; torch aborts if Python ends around it
        os._exit(0)


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
