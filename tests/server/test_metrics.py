"""/metrics, /load, the log, and the files that go with them."""

import io
import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from unmask_server.logs import _Json, configure_logs, trace_id_of
from unmask_server.settings import Settings

DOCKER = Path(__file__).parents[2] / "docker"


def samples(client: httpx.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def total(found: dict, name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(value for (n, given), value in found.items() if n == name and wanted <= set(given))


def test_a_request_is_counted_and_timed(start, wait, new_engine) -> None:
    with start(lambda: new_engine) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        began = time.monotonic()
        assert client.post("/v1/generate", json={"input": "x", "output": ["text", "audio"]}).status_code == 200
        seconds = time.monotonic() - began
        found = samples(client)
    by_output = {"task": "fake", "modality": "text+audio"}
    assert total(found, "unmask:request_success_total", finished_reason="stop", task="fake") == 1
    for name in ("request_queue_time", "e2e_request_latency", "request_inference_time"):
        assert total(found, f"unmask:{name}_seconds_count", **by_output) == 1
        assert total(found, f"unmask:{name}_seconds_sum", **by_output) < seconds
    assert total(found, "unmask:audio_rtf_count") == 1
    assert total(found, "unmask:audio_rtf_sum") == pytest.approx(0.006 / 0.1)
    assert total(found, "unmask:generation_tokens_total", modality="text") == 3
    assert total(found, "unmask:prompt_tokens_total", modality="text") == 5
    assert total(found, "unmask:forward_passes_total") == 2
    assert total(found, "unmask:iteration_tokens_count") == 2
    assert total(found, "unmask:denoise_step_latency_seconds_count") == 2
    assert total(found, "unmask:http_requests_total", method="POST", handler="/v1/generate", status="200") == 1
    assert total(found, "unmask:http_requests_total", handler="/ready", status="200") == 1
    assert total(found, "process_resident_memory_bytes") > 1e6


@pytest.mark.parametrize(
    ("outputs", "words", "first", "others"),
    [
        (["text"], "one two three", "text", []),
        (["text"], "one", "text", []),  # there is no text in its steps
        (["audio"], "one", "audio", []),
        (["image"], "one", "image", ["preview"]),
        (["text", "audio"], "one two three", "text", ["audio"]),
        (["text", "audio"], "one", "audio", ["text"]),
    ],
)
def test_first_output_is_what_comes_first(start, wait, new_engine, outputs, words, first, others) -> None:
    """A step that brings nothing to read is none, and neither is a preview."""
    with start(lambda: new_engine) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        new_engine.hold.set()
        body = {"input": words, "output": outputs, "stream": True}
        body |= {"preview": {"every_steps": 1}} if outputs == ["image"] else {}
        comes_whole = words == "one" and first != "audio"
        awaited = f"{first}.delta" if not comes_whole else "image.preview" if first == "image" else '"step":20'
        began = time.monotonic()
        with client.stream("POST", "/v1/generate", json=body) as response:
            lines = response.iter_lines()
            while awaited not in next(lines):
                pass
            early = time.monotonic() - began  # what has been seen by now came within it
            time.sleep(early + 0.1)
            new_engine.hold.clear()
            assert list(lines)
        found = samples(client)
    assert total(found, "unmask:time_to_first_token_seconds_count") == 1
    assert total(found, "unmask:time_to_first_token_seconds_count", task="fake", modality=first) == 1
    for name in ("text", "audio", "image", "preview"):
        seen = total(found, f"unmask:time_to_first_{name}_seconds_count", task="fake")
        assert seen == (name == first or name in others), name
    assert (total(found, "unmask:time_to_first_token_seconds_sum") > early) == comes_whole


def test_what_goes_wrong_is_counted_by_reason(start, wait, new_engine, asking) -> None:
    with start(lambda: new_engine, Settings(max_queue=1, max_batch=1)) as client, ThreadPoolExecutor() as pool:
        wait(lambda: client.get("/ready").status_code == 200)
        client.post("/v1/generate", json={"input": "x", "task": "dance"})
        client.post("/v1/generate", json={"input": "crash"})
        client.get("/nothing/../../etc")
        client.request("PURGE", "/v1/generate")
        new_engine.hold.set()
        running = pool.submit(client.post, "/v1/generate", json={"input": "x"})
        wait(lambda: client.get("/load").json()["running"] == 1)
        waiting = pool.submit(client.post, "/v1/generate", json={"input": "x"})
        wait(lambda: client.get("/load").json()["waiting"] == 1)
        found = samples(client)
        assert total(found, "unmask:num_requests_running") == 1
        assert total(found, "unmask:num_requests_waiting") == 1
        assert total(found, "unmask:tokens_in_flight") == 1
        assert total(found, "unmask:http_requests_in_flight") == 2
        assert client.post("/v1/generate", json={"input": "x"}).status_code == 503
        new_engine.hold.clear()
        assert [job.result().status_code for job in (running, waiting)] == [200, 200]
        new_engine.hold.set()
        with asking(client, {"input": "x"}):
            wait(lambda: client.get("/load").json()["running"] == 1)
        wait(lambda: total(samples(client), "unmask:request_failure_total", reason="abort") == 1)
        new_engine.hold.clear()
        found = samples(client)
    for reason in ("invalid_request", "overloaded"):
        assert total(found, "unmask:admission_rejections_total", reason=reason) == 1
    assert total(found, "unmask:request_failure_total", reason="error") == 1
    assert total(found, "unmask:http_requests_total", handler="none") == 1
    assert total(found, "unmask:http_requests_total", method="other") == 1
    assert not any("etc" in value or "PURGE" in value for _, labels in found for _, value in labels)


def test_load_says_what_there_is_room_for(client: httpx.Client) -> None:
    settings = Settings()
    assert client.get("/load").json() == {
        "waiting": 0,
        "running": 0,
        "tokens_in_flight": 0,
        "sessions": 0,
        "max_queue": settings.max_queue,
        "max_batch": settings.max_batch,
        "max_batch_tokens": settings.max_batch_tokens,
    }


def test_the_dashboard_asks_for_metrics_that_there_are(client: httpx.Client) -> None:
    client.post("/v1/generate", json={"input": "x"})
    unlabelled = re.findall(r"# TYPE (\S+)", client.get("/metrics").text)  # what has not happened yet has no sample
    names = {name for name, _ in samples(client)} | set(unlabelled)
    dashboard = json.loads((DOCKER / "grafana" / "unmask.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    found = {name for expression in asked for name in re.findall(r"(?:unmask:|process_)\w+", expression)}
    assert len(found) > 10
    assert found <= names


def test_prometheus_scrapes_the_right_path() -> None:
    text = (DOCKER / "prometheus.yml").read_text()
    assert "metrics_path: /metrics" in text


def test_the_documentation_needs_no_network(client: httpx.Client) -> None:
    page = client.get("/docs").text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(addresses) >= 2
    assert all(address.startswith("/") for address in addresses)
    assert [client.get(address).status_code for address in addresses] == [200] * len(addresses)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What the log says as JSON, from info on."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Json())
    log = logging.getLogger("unmask")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield stream
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def test_each_request_is_a_line_with_its_ids_and_without_its_body(client: httpx.Client, logged, wait) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"x-request-id": "mine", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    assert client.post("/v1/generate?key=hush", json={"input": "private words"}, headers=headers).status_code == 200
    client.post("/v1/generate", json={"input": "crash", "instructions": "private words"}, headers=headers)
    wait(lambda: logged.getvalue().count("POST") >= 2)
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    answered = next(line for line in lines if line["message"].startswith("POST /v1/generate 200 "))
    assert (answered["request_id"], answered["trace_id"], answered["level"]) == ("mine", trace, "info")
    assert any("exception" in line and line["request_id"] == "mine" for line in lines)
    assert "private" not in logged.getvalue()
    assert "hush" not in logged.getvalue()


def test_only_a_true_traceparent_is_taken() -> None:
    assert trace_id_of("00-xyz") == trace_id_of("") == trace_id_of("00-" + "0" * 31 + "-b7ad6b7169203331-01") == ""


def test_libraries_stay_quiet_at_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    root, own = logging.getLogger(), logging.getLogger("unmask")
    monkeypatch.setattr(root, "handlers", [])
    before = root.level, own.level
    try:
        configure_logs("debug", "text")
        assert (root.level, own.level) == (logging.INFO, logging.DEBUG)
    finally:
        root.setLevel(before[0])
        own.setLevel(before[1])


def test_memory_of_gpus_is_shown_where_there_are_any(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("gpu_memory" in name for name, _ in samples(client))
    cards = ((100, 300, 1000), (0, 0, 2000), (5, 10, 1000))  # the second one is not in use
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: len(cards),
        memory_allocated=lambda i: cards[i][0],
        memory_reserved=lambda i: cards[i][1],
        get_device_properties=lambda i: SimpleNamespace(total_memory=cards[i][2]),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    found = samples(client)
    shown = {
        tuple(dict(labels).values()): value
        for (name, labels), value in found.items()
        if name == "unmask:gpu_memory_bytes"
    }
    assert shown == {
        ("0", "allocated"): 100,
        ("0", "reserved"): 300,
        ("0", "total"): 1000,
        ("2", "allocated"): 5,
        ("2", "reserved"): 10,
        ("2", "total"): 1000,
    }
