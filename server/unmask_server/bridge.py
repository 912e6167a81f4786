"""The one place where the event loop meets the engine: requests in, one thread that steps, futures out.

Requests join the running ones before any step and leave after any; tokens become media on a second thread, so that
nobody waits for somebody else's picture.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from unmask_engine.preset import Preset
from unmask_engine.request import Generation, GenerationRequest
from unmask_server.errors import ServerError
from unmask_server.settings import Settings

log = logging.getLogger("unmask")

STOP_S = 5.0
State = Literal["loading", "ready", "failed", "stopped"]


class Description(Protocol):
    @property
    def presets(self) -> Sequence[Preset]: ...


class Running(Protocol):
    """A request in the engine."""

    @property
    def error(self) -> Exception | None:
        """Why it could not be decoded."""


class GenerationEngine(Protocol):
    """What the server asks of an engine. All but `answer` is called on the engine thread only."""

    @property
    def name(self) -> str: ...

    @property
    def bundle(self) -> Description: ...

    def prepare(self, request: GenerationRequest, waited_ms: float = 0.0) -> Any:
        """Raises RequestError for a request that cannot be decoded."""

    def submit(self, prepared: Any) -> Any:
        """What `prepare` returned takes part from the next step on; -> Running."""

    def cancel(self, running: Any) -> None:
        """Takes a Running out."""

    def step(self) -> Sequence[Any]:
        """Decodes one step; the Running that are finished by it or have failed."""

    def answer(self, running: Any) -> Generation:
        """The media of a Running that has left; on any thread."""


@dataclass(frozen=True)
class Finished:
    generation: Generation
    queue_ms: float


@dataclass(eq=False)
class _Job:
    request: GenerationRequest
    future: Future[Finished] = field(default_factory=Future)
    enqueued: float = field(default_factory=time.perf_counter)
    queue_ms: float = 0.0
    running: Any = None
    abandoned: bool = False  # nobody waits for the answer any more


class EngineThread:
    """Loads the engine and runs it, both on one thread of its own."""

    def __init__(self, load: Callable[[], GenerationEngine], settings: Settings) -> None:
        self._load = load
        self._settings = settings
        self._waiting: deque[_Job] = deque()
        self._active: list[_Job] = []  # of the engine thread
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._media = ThreadPoolExecutor(max_workers=1, thread_name_prefix="media")
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
        """Fails what waits and what runs, and waits for the thread to end; not for a long load, though."""
        with self._changed:
            self._state = "stopped"
            for job in self._waiting:
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(self._unavailable())
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(STOP_S)
        self._media.shutdown(wait=False, cancel_futures=True)

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
        while self._state != "stopped":
            for job in self._arrivals():
                self._join(engine, job)
            self._cancel_abandoned(engine)
            self._step(engine)
        for job in self._active:
            job.future.set_exception(self._unavailable())

    def _arrivals(self) -> list[_Job]:
        """Who joins now; blocks while there is nothing to do."""
        with self._changed:
            self._changed.wait_for(lambda: self._active or self._waiting or self._state == "stopped")
            room = self._settings.max_batch - len(self._active)
            jobs = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        return [job for job in jobs if job.future.set_running_or_notify_cancel()]

    def _join(self, engine: GenerationEngine, job: _Job) -> None:
        job.queue_ms = 1000 * (time.perf_counter() - job.enqueued)
        try:
            job.running = engine.submit(engine.prepare(job.request, job.queue_ms))
        except Exception as error:
            job.future.set_exception(error)
        else:
            self._active.append(job)

    def _cancel_abandoned(self, engine: GenerationEngine) -> None:
        for job in [job for job in self._active if job.abandoned]:
            engine.cancel(job.running)
            self._active.remove(job)
            job.future.set_exception(self._unavailable())  # nobody looks

    def _step(self, engine: GenerationEngine) -> None:
        try:
            left = engine.step() if self._active else []
        except Exception as error:  # not one request's misfortune, or the engine would have kept it to that one
            log.exception("a step failed")
            for job in self._active:
                engine.cancel(job.running)
                job.future.set_exception(error)
            self._active.clear()
            return
        for running in left:
            job = next(job for job in self._active if job.running is running)
            self._active.remove(job)
            self._media.submit(self._finish, engine, job)

    def _finish(self, engine: GenerationEngine, job: _Job) -> None:
        try:
            if job.running.error is not None:
                raise job.running.error
            if not job.abandoned:
                job.future.set_result(Finished(engine.answer(job.running), job.queue_ms))
        except Exception as error:
            job.future.set_exception(error)

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
