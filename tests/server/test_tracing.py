"""Traces as a collector gets them, over OTLP; the collector here is a few lines of http.server."""

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from openai import OpenAI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from unmask_server.settings import Settings

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []

    def span(self, name: str) -> Span:
        (found,) = [span for span in self.spans if span.name == name]
        return found


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/traces"
        for one in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.resources.append({a.key: a.value.string_value for a in one.resource.attributes})
            self.server.spans += [span for scope in one.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_call_is_a_span_of_the_callers_trace(start, wait, new_engine, collector: Collector) -> None:
    settings = Settings(otlp_endpoint=f"http://127.0.0.1:{collector.server_port}/")
    with start(lambda: new_engine, settings) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        said = client.post("/v1/generate", json={"input": "private words"}, headers=headers)
        crashed = client.post("/v1/generate", json={"input": "crash"})
        refused = client.get("/v1/models/none", headers={"traceparent": "nonsense"})
        with OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as openai:
            stream = openai.chat.completions.create(
                model="fake", messages=[{"role": "user", "content": "say hi again"}], stream=True
            )
            assert list(stream)
    assert {span.name for span in collector.spans} == {
        "POST /v1/generate", "POST /v1/chat/completions", "GET /v1/models/{name:path}"
    }  # fmt: skip
    assert len(collector.spans) == 4  # none of the health checks
    by_id = {span.span_id.hex(): span for span in collector.spans}
    _, trace, span_id, flags = said.headers["traceparent"].split("-")
    assert (trace, flags) == (TRACE, "01")
    span = by_id[span_id]
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.kind) == (TRACE, PARENT, Span.SPAN_KIND_SERVER)
    attributes = {a.key: a.value.int_value or a.value.string_value for a in span.attributes}
    assert attributes == {
        "http.request.method": "POST", "http.route": "/v1/generate", "http.response.status_code": 200
    }  # fmt: skip
    assert [event.name for event in span.events] == ["admitted", "finished"]
    finished = {a.key: a.value.int_value or a.value.string_value for a in span.events[-1].attributes}
    assert finished == {"task": "fake", "steps": 2}
    streamed = collector.span("POST /v1/chat/completions")
    assert [event.name for event in streamed.events] == ["admitted", "first_output", "finished"]
    assert streamed.end_time_unix_nano >= streamed.events[-1].time_unix_nano
    assert by_id[crashed.headers["traceparent"].split("-")[2]].status.code == Status.STATUS_CODE_ERROR
    assert not by_id[refused.headers["traceparent"].split("-")[2]].parent_span_id
    assert {resource["service.name"] for resource in collector.resources} == {"unmask"}
    assert not any("private" in str(span) for span in collector.spans)


def test_an_unsampled_trace_is_not_sent(start, wait, new_engine, collector: Collector) -> None:
    settings = Settings(otlp_endpoint=f"http://127.0.0.1:{collector.server_port}")
    with start(lambda: new_engine, settings) as client:
        wait(lambda: client.get("/ready").status_code == 200)
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        answer = client.post("/v1/generate", json={"input": "x"}, headers=headers)
        assert answer.headers["traceparent"].startswith(f"00-{TRACE}-")
        assert answer.headers["traceparent"].endswith("-00")
    assert collector.spans == []


def test_without_a_collector_nothing_is_traced(client: httpx.Client) -> None:
    assert "traceparent" not in client.post("/v1/generate", json={"input": "x"}).headers
