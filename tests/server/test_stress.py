"""Clients that are slow, rude or many: everyone is answered or refused, nothing hangs, the engine is left idle."""

import gc
import json
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from unmask_server.settings import Settings

HEAD = b"POST /v1/generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
BODY = b'{"input": "x"}'
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY

HASTE_S = 1.5


def connect(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=60)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    received = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received


def grown_mib(work: Callable[[], None]) -> float:
    """How much memory this process keeps each time it does the work: the least of some rounds.

    What leaks grows in every round; what else lives in this process, and its allocator, grow in some.
    """
    resident = []
    for _ in range(5):
        work()
        gc.collect()
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20)
    return min(after - before for before, after in pairwise(resident[1:]))  # the first is to warm up


def is_idle(client: httpx.Client) -> bool:
    load = client.get("/load").json()
    return load["running"] == load["waiting"] == 0


@pytest.fixture
def hasty(start, wait, new_engine):
    """A server that waits for slow senders a little; long enough for who is only held up by a busy machine."""
    with start(lambda: new_engine, Settings(receive_timeout=HASTE_S)) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        yield client


@pytest.mark.parametrize("sent", [b"", HEAD, WHOLE[:20]])
def test_a_head_that_does_not_come_is_not_waited_for(hasty: httpx.Client, sent: bytes) -> None:
    with connect(hasty) as connection:
        connection.sendall(sent)
        assert read_all(connection) == b""
    assert hasty.get("/health").status_code == 200


def test_nor_is_one_that_comes_drop_by_drop(hasty: httpx.Client) -> None:
    def drip(connection: socket.socket) -> None:
        until = time.monotonic() + 60
        connection.sendall(HEAD)
        while time.monotonic() < until:
            connection.sendall(b"x: y\r\n")
            time.sleep(HASTE_S / 10)

    with connect(hasty) as connection, pytest.raises((BrokenPipeError, ConnectionResetError)):
        drip(connection)
    assert hasty.get("/health").status_code == 200


def test_nor_a_second_one_on_the_same_connection(hasty: httpx.Client) -> None:
    with connect(hasty) as connection:
        connection.sendall(WHOLE)
        assert b" 200 " in connection.recv(65536)
        connection.sendall(HEAD)
        read_all(connection)


def test_a_body_that_does_not_come_is_a_408(hasty: httpx.Client) -> None:
    with connect(hasty) as connection:
        connection.sendall(WHOLE[:-3])
        answer = read_all(connection)
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert b"body_timeout" in answer
    assert is_idle(hasty)


def test_an_idle_connection_is_kept(hasty: httpx.Client) -> None:
    with connect(hasty) as connection:
        connection.sendall(WHOLE)
        assert b" 200 " in connection.recv(65536)
        time.sleep(1.5 * HASTE_S)
        connection.sendall(WHOLE)
        assert b" 200 " in connection.recv(65536)


@pytest.mark.parametrize("sent", [WHOLE, WHOLE[:-3]])
def test_who_stops_sending_is_told_that_it_has_left(start, wait, new_engine, sent: bytes) -> None:
    """Whoever has left altogether looks the same: its work is stopped."""
    with start(lambda: new_engine) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        new_engine.hold.set()
        with connect(client) as connection:
            connection.sendall(sent)
            if sent == WHOLE:
                wait(lambda: not is_idle(client))
            connection.shutdown(socket.SHUT_WR)
            head, _, body = read_all(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert json.loads(body)["error"]["code"] == "client_closed"
        wait(lambda: is_idle(client))
        new_engine.hold.clear()
        assert client.post("/v1/generate", json={"input": "x"}).status_code == 200


def test_who_leaves_frees_the_engine(start, wait, new_engine) -> None:
    with start(lambda: new_engine, Settings(max_batch=2)) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        new_engine.hold.set()
        for _ in range(8):
            with connect(client) as connection:
                connection.sendall(WHOLE)
                time.sleep(0.02)
        wait(lambda: is_idle(client))
        new_engine.hold.clear()
        assert client.post("/v1/generate", json={"input": "x"}).status_code == 200


def test_two_hundred_connections_against_a_queue_of_sixteen(start, wait, new_engine) -> None:
    with start(lambda: new_engine, Settings(max_queue=16, max_batch=4)) as client, ThreadPoolExecutor(200) as pool:
        wait(lambda: client.get("/ready").status_code == 200)
        new_engine.hold.set()

        def ask(i: int) -> bytes:
            with connect(client) as connection:
                connection.sendall(WHOLE.replace(b"host: x\r\n", b"host: x\r\nconnection: close\r\n"))
                return read_all(connection)

        asked = [pool.submit(ask, i) for i in range(200)]
        wait(lambda: client.get("/load").json()["waiting"] == 16)
        wait(lambda: sum(job.done() for job in asked) == 180)
        new_engine.hold.clear()
        answers = [job.result() for job in asked]
        statuses = Counter(int(answer.split(b" ", 2)[1]) for answer in answers)
        assert statuses == {200: 20, 503: 180}
        assert all(b"retry-after: 1" in answer for answer in answers if b" 503 " in answer[:16])
        assert is_idle(client)
        assert max(new_engine.together) == 4
        assert not new_engine.running


def test_memory_stays_at_its_level(client: httpx.Client, engine) -> None:
    def ask(requests: int) -> None:
        for i in range(requests):
            assert client.post("/v1/generate", json={"input": f"word {i}", "output": ["audio"]}).status_code == 200
        engine.requests.clear()
        engine.together.clear()

    assert grown_mib(partial(ask, 50)) < 1.2


def test_memory_stays_at_its_level_when_clients_leave(start, wait, new_engine) -> None:
    """In the middle of a body, before the answer, and in the middle of a stream."""
    text = json.dumps({"input": "word " * 10_000, "output": ["audio", "text"], "stream": True}).encode()
    whole = HEAD + b"content-length: %d\r\n\r\n" % len(text) + text

    def come_and_leave(times: int) -> None:
        for _ in range(times):
            for sent in (whole[:-100], whole):
                with connect(client) as connection:
                    connection.sendall(sent)
            with connect(client) as connection:
                connection.sendall(whole)
                assert b" 200 " in connection.recv(65536)
                assert connection.recv(65536)
        wait(lambda: is_idle(client))
        new_engine.requests.clear()
        new_engine.together.clear()

    with start(lambda: new_engine, Settings(max_queue=256)) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        new_engine.hold.set()
        assert grown_mib(partial(come_and_leave, 20)) < 1.4  # the bodies alone of each round have 3 MiB
        assert not new_engine.running
        new_engine.hold.clear()
        assert client.post("/v1/generate", json={"input": "x"}).status_code == 200
