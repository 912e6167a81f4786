"""The one place where the event loop meets the engine: a queue in, one thread that decodes, futures out."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from unmask_engine.preset import Preset
from unmask_engine.request import Generation, GenerationRequest
from unmask_server.errors import ServerError
from unmask_server.settings import Settings

log = logging.getLogger("unmask")

STOP_S = 5.0
OnStep = Callable[[int, int, int], None]  # request's index, steps done, steps in all
State = Literal["loading", "ready", "failed", "stopped"]


class Description(Protocol):
    @property
    def presets(self) -> Sequence[Preset]: ...


class GenerationEngine(Protocol):
    """What the server asks of an engine. Both methods are called on the engine thread only."""

    @property
    def name(self) -> str: ...

    @property
    def bundle(self) -> Description: ...

    def prepare(self, request: GenerationRequest) -> Any:
        """Raises RequestError for a request that cannot be decoded."""

    def generate_prepared(
        self,
        prepared: Sequence[Any],
        on_step: OnStep | None = None,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Generation]:
        """Decodes what `prepare` returned, as one batch; stops with those whose `cancelled(index)` turns true."""


@dataclass(frozen=True)
class Finished:
    generation: Generation
    queue_ms: float


@dataclass
class _Job:
    request: GenerationRequest
    future: Future[Finished] = field(default_factory=Future)
    enqueued: float = field(default_factory=time.perf_counter)
    abandoned: bool = False  # nobody waits for the answer any more


class EngineThread:
    """Loads the engine and runs it, both on one thread of its own."""

    def __init__(self, load: Callable[[], GenerationEngine], settings: Settings) -> None:
        self._load = load
        self._settings = settings
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._state: State = "loading"
        self._engine: GenerationEngine | None = None

    @property
    def engine(self) -> GenerationEngine:
        """The loaded engine, for its name and presets; raises ServerError before it is loaded."""
        if self._engine is None or self._state != "ready":
            raise self._unavailable()
        return self._engine

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Fails what waits, abandons what runs, and waits for the thread to end; not for a long load, though."""
        with self._changed:
            self._state = "stopped"
            for job in self._waiting:
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(self._unavailable())
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(STOP_S)

    async def generate(self, request: GenerationRequest) -> Finished:
        """Waits for a turn and the answer. Cancelling the wait frees the request's place or its rows."""
        job = _Job(request)
        self._enqueue(job)
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            job.abandoned = True

    def _enqueue(self, job: _Job) -> None:
        with self._changed:
            if self._state != "ready":
                raise self._unavailable()
            waiting = sum(not job.abandoned for job in self._waiting)
            if waiting >= self._settings.max_waiting:
                message = f"{waiting} requests are waiting, as many as this server queues; try again later."
                raise ServerError(503, message, "overloaded", self._retry_after)
            self._waiting.append(job)
            self._changed.notify()

    def _run(self) -> None:
        try:
            self._engine = engine = self._load()
        except Exception as error:
            log.error("the model could not be loaded: %r", error)
            self._state = "failed"
            return
        with self._changed:
            if self._state == "loading":
                self._state = "ready"
        while batch := self._next_batch():
            self._decode(engine, batch)

    def _next_batch(self) -> list[_Job]:
        """Blocks until requests wait; empty when the server stops."""
        batch: list[_Job] = []
        with self._changed:
            while not batch:
                self._changed.wait_for(lambda: self._waiting or self._state == "stopped")
                if self._state == "stopped":
                    return []
                while self._waiting and len(batch) < self._settings.max_batch:
                    job = self._waiting.popleft()
                    if job.future.set_running_or_notify_cancel():
                        batch.append(job)
        return batch

    def _decode(self, engine: GenerationEngine, batch: list[_Job]) -> None:
        started = time.perf_counter()
        jobs, prepared = self._prepare(engine, batch)

        def cancelled(index: int) -> bool:
            return jobs[index].abandoned or self._state == "stopped"

        try:
            generations = engine.generate_prepared(prepared, cancelled=cancelled) if jobs else []
        except Exception as error:
            for job in jobs:
                job.future.set_exception(error)
            return
        for job, generation in zip(jobs, generations, strict=True):
            if generation.cancelled:
                job.future.set_exception(self._unavailable())
            else:
                job.future.set_result(Finished(generation, queue_ms=1000 * (started - job.enqueued)))

    def _prepare(self, engine: GenerationEngine, batch: list[_Job]) -> tuple[list[_Job], list[Any]]:
        """One request's mistake or misfortune is its own, not its batch's."""
        jobs, prepared = [], []
        for job in batch:
            try:
                prepared.append(engine.prepare(job.request))
                jobs.append(job)
            except Exception as error:
                job.future.set_exception(error)
        return jobs, prepared

    @property
    def _retry_after(self) -> dict[str, str]:
        return {"retry-after": str(self._settings.retry_after_s)}

    def _unavailable(self) -> ServerError:
        messages = {
            "loading": "The model is still loading; try again in a moment.",
            "failed": "The model could not be loaded; the server's log says why.",
        }
        message = messages.get(self._state, "The server is shutting down.")
        return ServerError(503, message, "not_ready", self._retry_after)
