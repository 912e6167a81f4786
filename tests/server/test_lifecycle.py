"""How a server ends: on a signal, and when its engine does."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from unmask_server.app import create_app
from unmask_server.drain import Drain
from unmask_server.http_server import Server
from unmask_server.settings import Settings

BODY = {"input": "x"}


@contextmanager
def real_server(engine, wait, **settings: float) -> Iterator[tuple[Server, httpx.Client]]:
    """The server of `unmask serve` with a fake engine, in this process."""
    made = Settings(**settings)  # type: ignore[arg-type]
    server: Server
    server = Server(create_app(lambda: engine, made, lambda: server.exit_in(made.exit_on_engine_failure)), made)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=url, timeout=60, headers={"connection": "close"}) as client:
                wait(lambda: server.started and client.get("/ready").status_code == 200)
                yield server, client
        finally:
            engine.hold.clear()
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def test_a_draining_server_finishes_and_refuses(wait, new_engine) -> None:
    with real_server(new_engine, wait) as (server, client), ThreadPoolExecutor() as pool:
        new_engine.hold.set()
        running = pool.submit(client.post, "/v1/generate", json=BODY)
        wait(lambda: new_engine.together[-1:] == [1])
        server.handle_exit(signal.SIGTERM, None)
        wait(lambda: client.get("/ready").status_code == 503)
        refused = client.post("/v1/generate", json=BODY)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        assert refused.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200
        assert client.get("/v1/models").status_code == 200
        assert not server.should_exit
        new_engine.hold.clear()
        assert running.result().status_code == 200
        wait(lambda: server.should_exit)


def test_a_stream_runs_to_its_end(wait, new_engine) -> None:
    with real_server(new_engine, wait) as (server, client):
        new_engine.hold.set()
        with client.stream("POST", "/v1/generate", json=BODY | {"stream": True}) as response:
            lines = response.iter_lines()
            assert "generation.created" in next(lines)
            server.handle_exit(signal.SIGTERM, None)
            wait(lambda: client.get("/ready").status_code == 503)
            new_engine.hold.clear()
            assert [line for line in lines if line][-1] == "data: [DONE]"
        wait(lambda: server.should_exit)


def test_what_does_not_finish_in_time_is_told_so(wait, new_engine) -> None:
    with real_server(new_engine, wait, shutdown_timeout=0.2) as (server, client), ThreadPoolExecutor() as pool:
        new_engine.hold.set()
        running = pool.submit(client.post, "/v1/generate", json=BODY)
        wait(lambda: new_engine.together[-1:] == [1])
        server.handle_exit(signal.SIGTERM, None)
        assert running.result().status_code == 503
        assert "shutting down" in running.result().json()["error"]["message"]


def test_sessions_are_waited_for() -> None:
    import asyncio

    async def run() -> None:
        drain = Drain()
        assert await drain.finished(0)
        with drain.open("websocket"), drain.open("http"):
            assert drain.num_open == {"http": 1, "websocket": 1}
            assert not await drain.finished(0.01)
        assert await drain.finished(0)

    asyncio.run(run())


def test_the_end_of_the_engine_is_the_end_of_the_server(wait, new_engine, monkeypatch, caplog) -> None:
    with (
        real_server(new_engine, wait, max_batch=1, exit_on_engine_failure=0.3) as (server, client),
        ThreadPoolExecutor() as pool,
    ):
        new_engine.hold.set()
        running = pool.submit(client.post, "/v1/generate", json=BODY)
        wait(lambda: new_engine.together[-1:] == [1])
        waiting = pool.submit(client.post, "/v1/generate", json=BODY)
        wait(lambda: client.get("/load").json()["waiting"] == 1)

        def crash() -> None:
            raise SystemExit("not one request's misfortune")

        monkeypatch.setattr(new_engine, "step", crash)
        assert waiting.result().status_code == 503
        assert running.result().status_code == 500
        assert running.result().headers["x-should-retry"] == "false"
        health = client.get("/health")
        assert (health.status_code, health.json()["error"]["code"]) == (503, "engine_failed")
        assert client.get("/ready").status_code == 503
        assert client.post("/v1/generate", json=BODY).status_code == 503
        wait(lambda: server.should_exit)
    assert "the engine has crashed" in caplog.text


@contextmanager
def process(bundle: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [*_command(bundle, 0), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment()) as server:
        try:
            assert server.stdout is not None
            yield server, server.stdout.readline().split()[4]
        finally:
            server.kill()


def test_sigterm_under_load_loses_nothing(tiny_bundle: Path) -> None:
    with process(tiny_bundle, "--max-batch", "4") as (server, url), ThreadPoolExecutor(8) as pool:
        body = {"input": "a red circle", "output": ["image"]}
        asked = [pool.submit(httpx.post, f"{url}/v1/generate", json=body, timeout=60) for _ in range(24)]
        while httpx.get(f"{url}/load", timeout=60).json()["running"] == 0:
            time.sleep(0.005)
        server.send_signal(signal.SIGTERM)
        answered, refused = 0, 0
        for job in asked:
            try:
                status = job.result().status_code
            except httpx.TransportError:  # came when nobody listened any more
                status = 503
            assert status in (200, 503)
            answered, refused = answered + (status == 200), refused + (status == 503)
        assert server.wait(120) == 0
        assert answered >= 1
        assert answered + refused == 24


def test_a_server_that_still_loads_ends_too(tiny_bundle: Path) -> None:
    port = free_port()
    with subprocess.Popen(_command(tiny_bundle, port), env=_environment(), stderr=subprocess.PIPE) as server:
        assert server.stderr is not None
        while not _status(port, "/health"):
            time.sleep(0.005)
        server.send_signal(signal.SIGTERM)
        assert (server.wait(120), server.stderr.read()) == (0, b"")


def test_a_second_signal_ends_at_once(tiny_bundle: Path) -> None:
    with process(tiny_bundle, "--max-batch", "1") as (server, url), ThreadPoolExecutor(40) as pool:
        body = {"input": "a red circle", "output": ["image"]}
        asked = [pool.submit(httpx.post, f"{url}/v1/generate", json=body, timeout=60) for _ in range(40)]
        while httpx.get(f"{url}/load", timeout=60).json()["waiting"] < 20:
            time.sleep(0.005)
        server.send_signal(signal.SIGTERM)
        server.send_signal(signal.SIGINT)
        assert server.wait(60) in (128 + signal.SIGTERM, 128 + signal.SIGINT)
        for job in asked:
            job.exception()


def test_a_process_whose_engine_crashes_says_so(wait, new_engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from unmask_server.commands.exits import CommandError
    from unmask_server.commands.serve import serve

    loader = SimpleNamespace(load=lambda path, device, policy, tensor_parallel: new_engine)
    monkeypatch.setitem(sys.modules, "unmask_engine.engine", SimpleNamespace(Engine=loader))
    monkeypatch.setattr("unmask_server.commands.serve.configure_logs", lambda *_: None)
    monkeypatch.setattr(new_engine, "submit", lambda *_: (_ for _ in ()).throw(SystemExit))
    port = free_port()

    def ask() -> None:
        wait(lambda: _status(port, "/ready") == 200)
        with suppress(httpx.TransportError):  # it may end before it has answered
            httpx.post(f"http://127.0.0.1:{port}/v1/generate", json=BODY, timeout=60)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(CommandError, match="crashed"):
        serve(Settings(model="omni-diffusion", port=port, exit_on_engine_failure=0.1))
    asking.join()


def free_port() -> int:
    """Below those that are given out by themselves, so that nobody gets it meanwhile."""
    for port in random.SystemRandom().sample(range(10_000, 30_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no port is free")


def _status(port: int, path: str) -> int:
    """0 while nobody listens."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=60).status_code
    except httpx.TransportError:
        return 0


def _command(bundle: Path, port: int) -> list[str]:
    script = "import sys; from unmask_server.cli import main; sys.argv[0] = 'unmask'; main()"
    return [sys.executable, "-c", script, "serve", "--model", str(bundle), "--port", str(port)]


def _environment() -> dict[str, str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
