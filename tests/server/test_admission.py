"""Keys, rates and what is refused with which headers."""

from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from unmask_server.admission import Rate
from unmask_server.settings import Settings

BODY = {"input": "x"}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def locked(start, wait, new_engine):
    with start(lambda: new_engine, Settings(api_keys=("one", "two"), requests_per_minute=2)) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        yield client


def test_the_api_asks_for_a_key(locked: httpx.Client) -> None:
    for headers in ({}, bearer("three"), bearer("on"), {"authorization": "Basic one"}, {"authorization": "one"}):
        for response in (locked.get("/v1/models", headers=headers), locked.post("/v1/generate", headers=headers)):
            assert response.status_code == 401
            error = response.json()["error"]
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
            assert response.headers["x-request-id"]
    assert locked.get("/v1/models", headers=bearer("two")).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/version", "/load", "/docs", "/openapi.json"])
def test_operators_need_no_key(locked: httpx.Client, path: str) -> None:
    assert locked.get(path).status_code == 200


def test_each_key_has_its_rate(locked: httpx.Client) -> None:
    asked = [locked.post("/v1/generate", json=BODY, headers=bearer("one")) for _ in range(3)]
    assert [response.status_code for response in asked] == [200, 200, 429]
    assert 1 <= int(asked[2].headers["retry-after"]) <= 30
    assert asked[2].json()["error"]["type"] == "rate_limit_error"
    assert locked.post("/v1/generate", json=BODY, headers=bearer("two")).status_code == 200
    assert locked.get("/v1/models", headers=bearer("one")).status_code == 200
    page = locked.get("/metrics").text
    assert 'unmask:admission_rejections_total{reason="rate_limit_exceeded"} 1.0' in page


def test_a_dialogue_counts_for_its_key(locked: httpx.Client) -> None:
    url = str(locked.base_url).replace("http", "ws") + "/v1/realtime"

    def status(key: str, **options: Any) -> int:
        try:
            with connect(url, **({"additional_headers": bearer(key)} | options)):
                return 101
        except InvalidStatus as error:
            return error.response.status_code

    assert [status("one") for _ in range(3)] == [101, 101, 429]
    as_page = {"additional_headers": None, "subprotocols": ["realtime", "openai-insecure-api-key.one"]}
    assert status("", **as_page) == 429
    assert locked.post("/v1/generate", json=BODY, headers=bearer("one")).status_code == 429
    assert locked.post("/v1/generate", json=BODY, headers=bearer("two")).status_code == 200
    assert status("two") == 101
    assert status("two") == 429
    assert [status("wrong") for _ in range(3)] == [401, 401, 429]  # that is the address's rate


@pytest.mark.parametrize("path", ["/v1/audio/voices", "/v1/audio/models"])
def test_voices_and_their_models_are_told_without_a_key(locked: httpx.Client, path: str) -> None:
    assert locked.get(path).status_code == 200
    assert locked.post(path).status_code == 401
    assert locked.get(path + "/x").status_code == 401


def test_without_keys_each_address_has_its_rate(start, wait, new_engine) -> None:
    with start(lambda: new_engine, Settings(requests_per_minute=1)) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        assert [client.post("/v1/generate", json=BODY).status_code for _ in range(2)] == [200, 429]


def test_a_bucket_fills_evenly() -> None:
    now = 0.0
    rate = Rate(60, lambda: now)
    assert [rate.take("a") for _ in range(60)] == [0.0] * 60
    assert rate.take("a") == pytest.approx(1.0)
    assert rate.take("b") == 0.0
    now = 1.0
    assert rate.take("a") == 0.0
    assert rate.take("a") == pytest.approx(1.0)


def test_many_callers_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask_server.admission.MAX_BUCKETS", 10)
    now = 0.0
    rate = Rate(60, lambda: now)
    for caller in range(1000):
        now += 10.0
        rate.take(str(caller))
    assert len(rate._full_at) <= 10


def test_nor_do_many_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """And whoever goes on asking is not forgotten because of them."""
    monkeypatch.setattr("unmask_server.admission.MAX_BUCKETS", 10)
    rate = Rate(2, lambda: 0.0)
    assert [rate.take("greedy") for _ in range(3)] == [0.0, 0.0, 30.0]
    for caller in range(1000):
        assert rate.take(str(caller)) == 0.0
        assert rate.take("greedy") == 30.0
    assert len(rate._full_at) == 10


def test_an_answer_that_takes_too_long(start, wait, new_engine) -> None:
    with start(lambda: new_engine, Settings(request_timeout=1.5)) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        new_engine.hold.set()
        response = client.post("/v1/generate", json=BODY)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "request_timeout")
        assert response.headers["x-should-retry"] == "false"
        wait(new_engine.cancelled.is_set)
        new_engine.hold.clear()
        assert client.post("/v1/generate", json=BODY).status_code == 200


def test_a_crash_must_not_be_repeated(client: httpx.Client) -> None:
    response = client.post("/v1/generate", json={"input": "crash"})
    assert (response.status_code, response.headers["x-should-retry"]) == (500, "false")


def test_web_pages_of_named_origins_may_call(start, new_engine) -> None:
    with start(lambda: new_engine, Settings(cors_origins=("https://a.example",), api_keys=("one",))) as client:
        headers = {"origin": "https://a.example", "access-control-request-method": "POST"}
        asked = client.options("/v1/generate", headers=headers | {"access-control-request-headers": "authorization"})
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == "https://a.example"
        refused = client.post("/v1/generate", json=BODY, headers={"origin": "https://a.example"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://a.example")
        assert (
            "access-control-allow-origin" not in client.get("/health", headers={"origin": "https://b.example"}).headers
        )


def test_without_the_flag_no_page_may_call(client: httpx.Client) -> None:
    response = client.get("/health", headers={"origin": "https://a.example"})
    assert "access-control-allow-origin" not in response.headers
