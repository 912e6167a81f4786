"""What the server tells Prometheus. The names have vLLM's stems, so that its dashboards and alerts carry over.

One registry an app. `/metrics` never shows what a caller wrote: labels come from the model and from the routes.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

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

from unmask_engine.request import Generation, GenerationRequest, Progress, RequestError
from unmask_engine.work import Work
from unmask_server import tracing
from unmask_server.engine_client import Admitted, Event, Finished, Preview, Spoken
from unmask_server.errors import ServerError
from unmask_server.gpu_memory import GpuMemory

M = TypeVar("M", Counter, Histogram)
PREFIX = "unmask:"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
STEP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
RATIO = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 5)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
REJECTIONS = ("overloaded", "not_ready")  # codes of what never got into the queue; other failures came later
BY_OUTPUT = ("task", "modality")
FIRSTS = ("text", "audio", "image", "preview")
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
        self._firsts = {
            name: measure(f"time_to_first_{name}_seconds", f"Arrival to first {name}.", SECONDS, "task")
            for name in FIRSTS
        }
        self._total = measure("e2e_request_latency_seconds", "Arrival to answer.", SECONDS, *BY_OUTPUT)
        self._inference = measure("request_inference_time_seconds", "First step to answer.", SECONDS, *BY_OUTPUT)
        self._steps = measure("denoise_steps", "Steps of a request.", STEPS, "task")
        self._step = measure("denoise_step_latency_seconds", "One step of all that take part.", STEP_SECONDS)
        self._tokens = measure("iteration_tokens", "Rows of one forward pass.", TOKENS)
        self._rtf = measure("audio_rtf", "Seconds of inference a second of speech.", RATIO)
        self._dialogue_first = measure(
            "realtime_first_audio_seconds", "End of a turn to the reply's first sound.", SECONDS
        )
        self._dialogue_rtf = measure("realtime_rtf", "End of a turn to the end of the reply, a second of it.", RATIO)
        self._underrun = measure(
            "realtime_underrun_seconds", "Gaps in a reply that is played as it comes.", STEP_SECONDS
        )
        self._vad = measure("realtime_vad_seconds", "Turn detection in one piece of a user's sound.", STEP_SECONDS)
        self._endpoint = measure(
            "realtime_endpoint_seconds", "A user's last voice to the end of the turn, its silence included.", SECONDS
        )
        self._head_starts = count("realtime_head_starts", "Answers begun in a pause of the user's.", "outcome")
        self._interruptions = count("realtime_interruptions", "Replies that were cut off.", "reason")
        self._http = count("http_requests", "Responses.", "method", "handler", "status")
        self._http_s = measure("http_request_duration_seconds", "Request to end of response.", SECONDS, "handler")
        Info(PREFIX + "build", "What runs here.", registry=self.registry).info({"version": version})
        self._work = Work()
        self._children: dict[Any, Any] = {}

    def show(self, gauges: Callable[[], Mapping[str, float]]) -> None:
        """`gauges` gives the present value of each of GAUGES; called for each scrape."""
        self.registry.register(_Gauges(gauges))
        self.registry.register(GpuMemory(PREFIX + "gpu_memory_bytes"))

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)

    def rejected(self, reason: str) -> None:
        self._rejections.labels(reason).inc()

    def responded(self, method: str, handler: str, status: int, seconds: float) -> None:
        self._of(self._http, method if method in METHODS else "other", handler, str(status)).inc()
        self._of(self._http_s, handler).observe(seconds)

    def spoke(self, first_s: float, rtf: float, underrun_s: float) -> None:
        """A whole reply in a spoken dialogue."""
        self._dialogue_first.observe(first_s)
        self._dialogue_rtf.observe(rtf)
        self._underrun.observe(underrun_s)

    def detected(self, seconds: float) -> None:
        """Where speech is in a piece of a user's sound: from its arrival on."""
        self._vad.observe(seconds)

    def endpointed(self, seconds: float) -> None:
        """The end of a user's turn, so long after the last voice."""
        self._endpoint.observe(seconds)

    def head_start(self, outcome: str) -> None:
        """An answer that was begun before the end of a turn was `used`, or `dropped`."""
        self._head_starts.labels(outcome).inc()

    def interrupted(self, reason: str) -> None:
        """A reply in a dialogue; the reason is the protocol's."""
        self._interruptions.labels(reason).inc()

    def stepped(self, work: Work, seconds: float) -> None:
        """After a step of the engine, which has done `work` since it was loaded."""
        steps, tokens = work.steps - self._work.steps, work.tokens - self._work.tokens
        self._work = work
        if steps > 0:
            self._step.observe(seconds)
            self._tokens.observe(tokens / steps)

    @contextmanager
    def request(self, request: GenerationRequest) -> Iterator["RequestWatch"]:
        """Around the life of one request in the bridge."""
        watch = RequestWatch(self, comes_whole=request.edit is not None)
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
        by_output = (generation.task, "+".join(made_of(generation)))
        self._of(self._success, "length" if generation.truncated else "stop", generation.task).inc()
        for counter, tokens in ((self._input, usage.input_tokens), (self._output, usage.output_tokens)):
            for modality, number in tokens.items():
                self._of(counter, modality).inc(number)
        self._passes.inc(usage.forward_passes)
        self._of(self._steps, generation.task).observe(usage.steps)
        self._of(self._queue, *by_output).observe(watch.queue_s)
        for name, came_at in watch.came_at.items():
            self._of(self._firsts[name], generation.task).observe(came_at - watch.began)
        if (first := watch.first_output) is not None:
            self._of(self._first, generation.task, first).observe(watch.came_at[first] - watch.began)
        self._of(self._total, *by_output).observe(now - watch.began)
        self._of(self._inference, *by_output).observe(now - watch.began - watch.queue_s)
        if audio is not None and len(audio.samples):
            seconds = (timings.encode_ms + timings.decode_ms + timings.media_ms) / 1e3
            self._rtf.observe(seconds * audio.sample_rate / len(audio.samples))

    def _of(self, metric: M, *labels: str) -> M:
        """`metric.labels` takes much longer."""
        child: M | None = self._children.get((metric, labels))
        if child is None:
            self._children[metric, labels] = child = metric.labels(*labels)
        return child

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(PREFIX + name, about, labels, buckets=tuple(buckets), registry=self.registry)


@dataclass
class RequestWatch:
    """What is known of a request so far; the bridge tells it."""

    metrics: Metrics
    comes_whole: bool = False  # an edit is pasted into its target first
    began: float = field(default_factory=time.perf_counter)
    queue_s: float = 0.0
    came_at: dict[str, float] = field(default_factory=dict)  # the first of each of FIRSTS
    is_finished: bool = False

    @property
    def first_output(self) -> str | None:
        """The modality that came first; a preview is no part of the answer."""
        return next((name for name in self.came_at if name != "preview"), None)

    def saw(self, event: Event) -> None:
        """Each event, before the reader has it."""
        if isinstance(event, Admitted):
            self.queue_s = event.queue_ms / 1e3
            tracing.note("admitted", queue_s=self.queue_s)
        elif isinstance(event, Progress) and event.text and not self.comes_whole:
            self._came("text")
        elif isinstance(event, Spoken):
            self._came("audio")
        elif isinstance(event, Preview):
            self._came("preview")
        elif isinstance(event, Finished):
            self._finished(event.generation)

    def _came(self, name: str) -> None:
        if name in self.came_at:
            return
        if self.first_output is None and name != "preview":
            tracing.note("first_output", modality=name)
        self.came_at[name] = time.perf_counter()

    def _finished(self, generation: Generation) -> None:
        self.is_finished = True
        for name in made_of(generation):
            self.came_at.setdefault(name, time.perf_counter())
        tracing.note("finished", task=generation.task, steps=generation.usage.steps)
        self.metrics.answered(self, generation)


def made_of(generation: Generation) -> list[str]:
    """The modalities of an answer."""
    made = {"text": generation.text, "audio": generation.audio, "image": generation.image}
    return [name for name, part in made.items() if part is not None]


class _Gauges(Collector):
    def __init__(self, gauges: Callable[[], Mapping[str, float]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[GaugeMetricFamily]:
        values = self._gauges()
        for name, about in GAUGES.items():
            yield GaugeMetricFamily(PREFIX + name, about, value=values[name])
