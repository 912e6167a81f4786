"""What the server tells Prometheus. The names have vLLM's stems, so that its dashboards and alerts carry over.

One registry an app. `/metrics` never shows what a caller wrote: labels come from the model and from the routes.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from unmask_engine.request import Generation, RequestError
from unmask_engine.work import Work
from unmask_server.errors import ServerError

PREFIX = "unmask:"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
STEP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
RATIO = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 5)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
REJECTIONS = ("overloaded", "not_ready")  # codes of what never got into the queue; other failures came later
BY_OUTPUT = ("task", "modality")
GAUGES = {
    "num_requests_waiting": "Requests that wait for their first step.",
    "num_requests_running": "Requests that are decoded.",
    "tokens_in_flight": "Rows of a forward pass of everything that runs.",
    "http_requests_in_flight": "HTTP requests to /v1 that are not answered yet.",
    "websocket_connections_active": "Open sessions.",
}


class Metrics:
    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        count, measure = self._counter, self._histogram
        self._success = count("request_success", "Answered requests.", "finished_reason", "task")
        self._failure = count("request_failure", "Requests that were taken in and not answered.", "reason")
        self._rejections = count("admission_rejections", "Requests that were not taken in.", "reason")
        self._input = count("prompt_tokens", "Tokens of prompts.", "modality")
        self._output = count("generation_tokens", "Tokens committed for answers.", "modality")
        self._passes = count("forward_passes", "Forward passes, counted for each answered request.")
        self._queue = measure("request_queue_time_seconds", "Arrival to first step.", SECONDS, *BY_OUTPUT)
        self._first = measure("time_to_first_token_seconds", "Arrival to first output.", SECONDS, *BY_OUTPUT)
        self._total = measure("e2e_request_latency_seconds", "Arrival to answer.", SECONDS, *BY_OUTPUT)
        self._inference = measure("request_inference_time_seconds", "First step to answer.", SECONDS, *BY_OUTPUT)
        self._steps = measure("denoise_steps", "Steps of a request.", STEPS, "task")
        self._step = measure("denoise_step_latency_seconds", "One step of all that take part.", STEP_SECONDS)
        self._tokens = measure("iteration_tokens", "Rows of one forward pass.", TOKENS)
        self._rtf = measure("audio_rtf", "Seconds of inference a second of speech.", RATIO)
        self._http = count("http_requests", "Responses.", "method", "handler", "status")
        self._http_s = measure("http_request_duration_seconds", "Request to end of response.", SECONDS, "handler")
        Info(PREFIX + "build", "What runs here.", registry=self.registry).info({"version": version})
        self._work = Work()

    def show(self, gauges: Callable[[], Mapping[str, float]]) -> None:
        """`gauges` gives the present value of each of GAUGES; called for each scrape."""
        self.registry.register(_Gauges(gauges))

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)

    def rejected(self, reason: str) -> None:
        self._rejections.labels(reason).inc()

    def responded(self, method: str, handler: str, status: int, seconds: float) -> None:
        self._http.labels(method if method in METHODS else "other", handler, str(status)).inc()
        self._http_s.labels(handler).observe(seconds)

    def stepped(self, work: Work, seconds: float) -> None:
        """After a step of the engine, which has done `work` since it was loaded."""
        steps, tokens = work.steps - self._work.steps, work.tokens - self._work.tokens
        self._work = work
        if steps > 0:
            self._step.observe(seconds)
            self._tokens.observe(tokens / steps)

    @contextmanager
    def request(self) -> Iterator["RequestWatch"]:
        """Around the life of one request in the bridge."""
        watch = RequestWatch(self)
        try:
            yield watch
        except RequestError:
            self.rejected("invalid_request")
            raise
        except ServerError as error:
            if error.code in REJECTIONS:
                self.rejected(error.code)
            else:
                self._failure.labels(error.code).inc()
            raise
        except Exception:
            self._failure.labels("error").inc()
            raise
        except BaseException:  # the reader is gone
            if not watch.is_finished:
                self._failure.labels("abort").inc()
            raise

    def answered(self, watch: "RequestWatch", generation: Generation) -> None:
        now = time.perf_counter()
        usage, timings, audio = generation.usage, generation.timings, generation.audio
        made = {"text": generation.text, "audio": audio, "image": generation.image}
        by_output = (generation.task, "+".join(name for name, part in made.items() if part is not None))
        self._success.labels("length" if generation.truncated else "stop", generation.task).inc()
        for counter, tokens in ((self._input, usage.input_tokens), (self._output, usage.output_tokens)):
            for modality, number in tokens.items():
                counter.labels(modality).inc(number)
        self._passes.inc(usage.forward_passes)
        self._steps.labels(generation.task).observe(usage.steps)
        self._queue.labels(*by_output).observe(watch.queue_s)
        self._first.labels(*by_output).observe((watch.first_output or now) - watch.began)
        self._total.labels(*by_output).observe(now - watch.began)
        self._inference.labels(*by_output).observe(now - watch.began - watch.queue_s)
        if audio is not None and len(audio.samples):
            seconds = (timings.encode_ms + timings.decode_ms + timings.media_ms) / 1e3
            self._rtf.observe(seconds * audio.sample_rate / len(audio.samples))

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(PREFIX + name, about, labels, buckets=tuple(buckets), registry=self.registry)


@dataclass
class RequestWatch:
    """What is known of a request so far; the bridge tells it."""

    metrics: Metrics
    began: float = field(default_factory=time.perf_counter)
    queue_s: float = 0.0
    first_output: float | None = None
    is_finished: bool = False

    def admitted(self, queue_s: float) -> None:
        self.queue_s = queue_s

    def has_output(self) -> None:
        if self.first_output is None:
            self.first_output = time.perf_counter()

    def finished(self, generation: Generation) -> None:
        self.is_finished = True
        self.metrics.answered(self, generation)


class _Gauges(Collector):
    def __init__(self, gauges: Callable[[], Mapping[str, float]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[GaugeMetricFamily]:
        values = self._gauges()
        for name, about in GAUGES.items():
            yield GaugeMetricFamily(PREFIX + name, about, value=values[name])
