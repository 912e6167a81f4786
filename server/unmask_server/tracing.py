"""OpenTelemetry: a span for each call under /v1, child of the caller's `traceparent`; its own goes inwards and back.

Needs the extra `otel`; without an endpoint nothing of it is imported.
"""

from contextvars import ContextVar
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from opentelemetry.trace import Span, StatusCode

PATH: Final = "/v1/"  # health checks and pages are not traced
_span: ContextVar["Span | None"] = ContextVar("span", default=None)


def is_installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http.trace_exporter") is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def note(event: str, **attributes: str | int | float) -> None:
    """Something that happens to the present call, on its span; nothing where there is none."""
    span = _span.get()
    if span is not None:
        span.add_event(event, attributes)


class Tracing:
    """Sends spans in batches, on a thread of its own, to a collector's OTLP over HTTP.

    OpenTelemetry's own variables (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, ...) apply.
    """

    def __init__(self, endpoint: str, version: str) -> None:
        """`endpoint` is the collector's address, without /v1/traces."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource({"service.name": "unmask", "service.version": version})
        self._provider = TracerProvider(
            resource=resource.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("unmask", version)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, headers: Headers) -> "Span":
        from opentelemetry.trace import SpanKind

        parent = self._propagator.extract(headers)
        return self._tracer.start_span(name, context=parent, kind=SpanKind.SERVER)

    def traceparent(self, span: "Span") -> str:
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context=set_span_in_context(span))
        return carrier["traceparent"]

    def close(self) -> None:
        """Sends what has not been sent; blocks."""
        self._provider.shutdown()


class Traced:
    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self.app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not scope["path"].startswith(PATH):
            await self.app(scope, receive, send)
            return
        method = scope.get("method", "WEBSOCKET")
        span = self._tracing.begin(method, Headers(scope=scope))
        traceparent = self._tracing.traceparent(span)
        others = [(name, value) for name, value in scope["headers"] if name != b"traceparent"]
        inner = {**scope, "headers": [*others, (b"traceparent", traceparent.encode())]}

        async def send_traced(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                span.set_attribute("http.response.status_code", message["status"])
                if message["status"] >= 500:
                    span.set_status(_error())
                MutableHeaders(scope=message)["traceparent"] = traceparent
            await send(message)

        token = _span.set(span)
        try:
            await self.app(inner, receive, send_traced)
        except BaseException:
            span.set_status(_error())
            raise
        finally:
            _span.reset(token)
            route = getattr(inner.get("route"), "path", None)
            span.set_attribute("http.request.method", method)
            if route is not None:
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)
            span.end()


def _error() -> "StatusCode":
    from opentelemetry.trace import StatusCode

    return StatusCode.ERROR
