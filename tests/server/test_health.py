"""`unmask health` against a server that is ready, one that is loading, and none."""

import threading

import pytest

from unmask_server.commands.exits import CommandError
from unmask_server.commands.health import health


def test_a_ready_server(client, capsys) -> None:
    health(client.base_url.port)
    assert capsys.readouterr().out == "ready\n"


def test_a_server_that_is_loading(start, new_engine) -> None:
    loaded = threading.Event()

    def load():
        loaded.wait()
        return new_engine

    with start(load) as client:
        reason = client.get("/ready").json()["error"]["message"]
        with pytest.raises(CommandError) as caught:
            health(client.base_url.port)
        loaded.set()
    assert str(caught.value) == f"not ready: {reason}"


def test_no_server() -> None:
    with pytest.raises(CommandError, match="nothing answers on port 9"):
        health(9)
