"""`unmask serve`: the app behind a socket, one line when it is ready."""

import os
import socket
import ssl
from dataclasses import replace
from pathlib import Path

from unmask_engine.bundle import find_bundle
from unmask_server import tracing
from unmask_server.app import create_app
from unmask_server.bridge import EngineThread
from unmask_server.commands.exits import CommandError, UsageError
from unmask_server.engine_protocol import GenerationEngine
from unmask_server.http_server import Server
from unmask_server.load_engine import load_engine
from unmask_server.logs import configure_logs
from unmask_server.remote_media import is_domain
from unmask_server.settings import Settings

BACKLOG = 2048  # connections the system holds for us


def serve(settings: Settings) -> None:
    """Blocks until the server is told to stop. Raises BundleError before it listens if there is no such bundle."""
    if any(not key.strip() for key in settings.api_keys):
        raise UsageError("--api-key: a key is empty")
    for domain in settings.allowed_media_domains:
        if not is_domain(domain):
            raise UsageError(f"--allowed-media-domain: {domain!r} is no domain; give a name such as media.example.com")
    if settings.otlp_endpoint and not tracing.is_installed():
        raise UsageError("--otlp-endpoint needs OpenTelemetry: pip install 'unmask[otel]'")
    _check_certificate(settings)
    folder = find_bundle(settings.model)
    if settings.ray:
        from unmask_server.commands.serve_ray import serve_ray

        is_path = Path(settings.model).is_dir()  # a name each node looks up itself
        serve_ray(replace(settings, model=str(folder.resolve())) if is_path else settings)
        return
    configure_logs(settings.log_level, settings.log_format)
    listener = _listen(settings.host, settings.port)
    url = _url(settings.host, listener, "https" if settings.ssl_certfile else "http")
    failures: list[Exception] = []

    def load() -> GenerationEngine:
        try:
            engine = load_engine(settings, folder)
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


def _check_certificate(settings: Settings) -> None:
    if settings.ssl_keyfile and not settings.ssl_certfile:
        raise UsageError("--ssl-keyfile needs --ssl-certfile")
    if settings.ssl_certfile:
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile or None)
        except OSError as error:
            raise UsageError(f"--ssl-certfile, --ssl-keyfile: {error.strerror or error}") from None


def _url(host: str, listener: socket.socket, scheme: str) -> str:
    port = listener.getsockname()[1]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
