"""Who may come in, how much may be asked for, and how a session ends."""

import base64
import json
import time
from contextlib import suppress

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from unmask_server.realtime.limits import RealtimeLimits
from unmask_server.settings import Settings

KEYS = Settings(api_keys=("right",))


def address(client) -> str:
    host, port = client.socket.remote_address[:2]
    return f"{host}:{port}"


def bearer(key: str) -> dict[str, dict[str, str]]:
    return {"additional_headers": {"Authorization": f"Bearer {key}"}}


def close_code(client) -> int | None:
    with suppress(ConnectionClosed):
        while True:
            client.event()
    return client.socket.close_code


def test_keys(dial) -> None:
    with dial(settings=KEYS, **bearer("right")) as client:
        for options in ({}, bearer("wrong")):
            with pytest.raises(InvalidStatus) as refused, dial(**options):
                pass
            assert refused.value.response.status_code == 401
            assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"
        offered = ["realtime", "openai-insecure-api-key.right"]
        with dial(subprotocols=offered) as browser:
            assert browser.socket.subprotocol == "realtime"
        url = f"ws://{address(client)}/v1/realtime"
        with connect(url, subprotocols=["realtime", "openai-insecure-api-key.wrong"]) as browser:
            assert json.loads(browser.recv())["error"]["code"] == "invalid_api_key"
            with pytest.raises(ConnectionClosed):
                browser.recv()
            assert browser.close_code == 1008


def test_client_secrets(dial) -> None:
    with dial(settings=KEYS, **bearer("right")) as client:
        url = f"http://{address(client)}/v1/realtime/client_secrets"
        body = {"session": {"type": "realtime", "instructions": "be kind"}, "expires_after": {"seconds": 60}}
        assert httpx.post(url, json=body, timeout=60).status_code == 401
        headers = {"Authorization": "Bearer right"}
        for bad in ({"expires_after": {"seconds": 5}}, {"session": {"tools": [{}]}}):
            assert httpx.post(url, json=bad, headers=headers, timeout=60).status_code == 400
        asked_at = int(time.time())
        secret = httpx.post(url, json=body, headers=headers, timeout=60).json()
        assert secret["value"].startswith("ek_")
        assert asked_at <= secret["expires_at"] - 60 <= time.time() + 1
        assert secret["session"]["instructions"] == "be kind"
        with dial(subprotocols=["realtime", f"openai-insecure-api-key.{secret['value']}"]) as browser:
            assert browser.seen[0]["session"]["instructions"] == "be kind"


def test_a_full_server_refuses(dial) -> None:
    with dial(settings=Settings(realtime=RealtimeLimits(max_sessions=1))) as client:
        with pytest.raises(InvalidStatus) as refused, dial():
            pass
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["retry-after"] == "1"
        with connect(f"ws://{address(client)}/v1/realtime", subprotocols=["realtime"]) as browser:
            assert json.loads(browser.recv())["error"]["code"] == "overloaded"
            with pytest.raises(ConnectionClosed):
                browser.recv()
            assert browser.close_code == 1013
    with dial():
        pass  # the place is free again


def test_sessions_end(dial) -> None:
    with dial(settings=Settings(realtime=RealtimeLimits(max_session_s=0.3, max_idle_s=10))) as client:
        assert client.only("error")["error"]["code"] == "session_expired"
        assert close_code(client) == 1001


def test_idle_sessions_end(dial) -> None:
    with dial(settings=Settings(realtime=RealtimeLimits(max_idle_s=0.2))) as client:
        assert client.only("error")["error"]["code"] == "session_idle"
        assert close_code(client) == 1008


def test_who_does_not_read_is_put_out(dial, make, wait) -> None:
    """And whatever it was being answered is not made any more."""
    make.engine.stop_at = 5
    with dial(settings=Settings(realtime=RealtimeLimits(max_unsent_bytes=200_000, flush_s=0.2))) as client:
        client.ask()
        client.send("response.create")
        client.until("response.output_audio_transcript.delta")
        text = [{"type": "input_text", "text": "x" * 190_000}]
        with suppress(ConnectionClosed):
            for _ in range(200):  # and nothing is read meanwhile
                client.send("conversation.item.create", item={"type": "message", "role": "user", "content": text})
        wait(lambda: make.engine.num_cancelled == 1)


def test_sound_is_bounded(dial, make) -> None:
    with dial(settings=Settings(realtime=RealtimeLimits(max_turn_s=1.0))) as client:
        client.speak(make.voice(1.5))  # a turn ends when it is too long
        client.until("input_audio_buffer.committed")
        client.send("input_audio_buffer.clear")
        client.until("input_audio_buffer.cleared")
        client.listen()
        client.speak(make.voice(1.2))
        assert client.until("error")["error"]["code"] == "input_audio_buffer_full"
        client.send("input_audio_buffer.commit")
        assert client.until("input_audio_buffer.committed")


def test_responses_are_bounded(dial, make) -> None:
    make.engine.stop_at = 0
    with dial(settings=Settings(realtime=RealtimeLimits(max_responses=2))) as client:
        client.ask()
        for _ in range(3):
            client.send("response.create", response={"conversation": "none"})
        assert client.until("error")["error"]["code"] == "too_many_responses"


def test_a_client_that_leaves_frees_the_engine(dial, make, wait) -> None:
    make.engine.stop_at = 5
    with dial() as client:
        client.ask()
        client.send("response.create")
        client.until("response.output_audio_transcript.delta")
    wait(lambda: make.engine.num_cancelled == 1)


def test_the_end_of_the_server_waits_for_the_answer(dial, make, server, wait) -> None:
    make.engine.stop_at = 5
    with dial() as client:
        client.ask()
        client.send("response.create")
        client.until("response.output_audio_transcript.delta")
        server.drain()
        wait(lambda: httpx.get(f"{server.url}/ready", timeout=60).status_code == 503)
        with pytest.raises(InvalidStatus) as refused, dial():
            pass
        assert refused.value.response.status_code == 503
        make.engine.stop_at = None
        assert client.until("response.done")["response"]["status"] == "completed"
        assert close_code(client) == 1001


def test_pages_of_other_origins_stay_outside(dial) -> None:
    settings = Settings(cors_origins=("https://friend.example",))
    with dial(settings=settings, origin="https://friend.example") as client:
        with dial(origin=f"http://{address(client)}"):
            pass
        with pytest.raises(InvalidStatus) as refused, dial(origin="https://stranger.example"):
            pass
        assert refused.value.response.status_code == 403


def test_a_conversation_is_bounded(dial, png) -> None:
    limits = RealtimeLimits(max_items=3, max_kept_images=1, max_kept_audio_s=1.0)
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    sound = base64.b64encode(bytes(2 * 24_000)).decode()
    with dial(settings=Settings(realtime=limits)) as client:
        for name in "abc":
            picture, recording = {"type": "input_image", "image_url": url}, {"type": "input_audio", "audio": sound}
            client.ask(id=name, content=[picture, recording])
        client.ask(id="d")
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "first"}], "id": "e"}
        client.send("conversation.item.create", item=item, previous_item_id="root")
        assert client.only("conversation.item.added")["previous_item_id"] is None
        client.only("conversation.item.done")
        for name, is_kept in (("a", False), ("b", False), ("c", True)):
            client.send("conversation.item.retrieve", item_id=name)
            event = client.event()
            assert (event["type"] == "conversation.item.retrieved") == is_kept
