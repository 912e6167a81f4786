"""The one place where the event loop meets the engine: requests in, one thread that steps, events out.

Requests join the running ones before any step and leave after any; tokens become media on a second thread, so that
nobody waits for somebody else's picture. What fails fails one request, unless the engine is lost with it.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, Final, Literal

from unmask_engine.request import GenerationRequest, Progress, RequestError, Tokens
from unmask_engine.work import Work
from unmask_server.engine_client import Admitted as Admitted
from unmask_server.engine_client import Event as Event
from unmask_server.engine_client import Finished as Finished
from unmask_server.engine_client import Preview as Preview
from unmask_server.engine_client import Queued as Queued
from unmask_server.engine_client import Spoken as Spoken
from unmask_server.engine_client import Wants as Wants
from unmask_server.engine_protocol import GenerationEngine
from unmask_server.errors import NO_RETRY, ServerError
from unmask_server.mailbox import Mailbox, Post
from unmask_server.media_thread import MediaThread
from unmask_server.metrics import Metrics
from unmask_server.settings import Settings

log = logging.getLogger("unmask")

STOP_S: Final = 5.0
State = Literal["loading", "ready", "failed", "crashed", "stopped"]


def _merged(old: Event | Exception, new: Event | Exception) -> Event | Exception | None:
    if isinstance(old, Progress) and isinstance(new, Progress):
        commits = (old.commits, new.commits)
        return replace(
            new,
            commits=Tokens(
                positions=tuple(chain.from_iterable(tokens.positions for tokens in commits)),
                ids=tuple(chain.from_iterable(tokens.ids for tokens in commits)),
                confidence=tuple(chain.from_iterable(tokens.confidence for tokens in commits)),
                texts=tuple(chain.from_iterable(tokens.texts for tokens in commits)),
            ),
        )
    return new if isinstance(old, Preview) and isinstance(new, Preview) else None


@dataclass(eq=False)
class _Job:
    request: GenerationRequest
    wants: Wants
    interactive: bool
    tell: Callable[[Event | Exception], None]  # on any thread
    enqueued: float = field(default_factory=time.perf_counter)
    queue_ms: float = 0.0
    running: Any = None
    is_drawing: bool = False  # a preview is under way
    is_answered: bool = False
    num_codes: int = 0  # speech codes given to the codec
    abandoned: bool = False  # nobody waits for the answer any more


class EngineThread:
    """Loads the engine and runs it, both on one thread of its own."""

    def __init__(
        self,
        load: Callable[[], GenerationEngine],
        settings: Settings,
        metrics: Metrics,
        on_crash: Callable[[], None],  # on the engine thread, which ends with it
    ) -> None:
        self._load = load
        self._settings = settings
        self._metrics = metrics
        self._on_crash = on_crash
        self._waiting: deque[_Job] = deque()
        self._joining: deque[_Job] = deque()  # neither waiting nor active; of the engine thread
        self._active: list[_Job] = []  # likewise
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._media = MediaThread()
        self._post: Post[Event | Exception] | None = None  # to the event loop that the last request came from
        self._state: State = "loading"
        self._engine: GenerationEngine | None = None
        self._work = Work()

    @property
    def is_alive(self) -> bool:
        """False once the engine has failed for good."""
        return self._state not in ("failed", "crashed")

    @property
    def is_ready(self) -> bool:
        """The engine is loaded and takes requests."""
        return self._state == "ready"

    @property
    def is_at_work(self) -> bool:
        """The thread runs, be it that it loads, waits for requests or has not noticed yet that it was stopped."""
        return self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._active)

    @property
    def tokens_in_flight(self) -> int:
        """As of the last step."""
        return self._work.tokens_in_flight if self._active else 0

    @property
    def engine(self) -> GenerationEngine:
        """The loaded engine, for its name and presets; raises ServerError before it is loaded."""
        if self._engine is None or self._state != "ready":
            raise self._unavailable()
        return self._engine

    def start(self) -> None:
        self._thread.start()
        self._media.start()

    def stop(self) -> None:
        """Fails what waits and what runs, and waits for the thread to end; not for a load or a long step, though."""
        with self._changed:
            patience_s = 0.0 if self._state == "loading" else STOP_S
            self._state = "stopped"
            for job in self._waiting:
                job.tell(self._unavailable())
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(patience_s)
        self._media.stop(patience_s)

    async def generate(self, request: GenerationRequest, interactive: bool = False) -> Finished:
        """Waits for a turn and the answer. Cancelling the wait frees the request's place or its rows."""
        async for event in self.stream(request, Wants(), interactive):
            if isinstance(event, Finished):
                return event
        raise self._unavailable()

    async def stream(
        self, request: GenerationRequest, wants: Wants, interactive: bool = False
    ) -> AsyncGenerator[Event]:
        """The request's events, Finished last; raises what went wrong. Closing it frees the place or the rows.

        A slow reader gets the steps it has not read in time as one; it loses guesses and previews, nothing else.
        """
        loop, events = asyncio.get_running_loop(), Mailbox[Event | Exception](_merged)
        if self._post is None or self._post.loop is not loop:
            self._post = Post(loop)
        job = _Job(request, wants, interactive, partial(self._post.send, events))
        limit_s = self._settings.request_timeout
        give_up_at = loop.time() + limit_s if limit_s else None
        with self._metrics.request(request) as watch:
            try:
                self._enqueue(job)
                while True:
                    event = await self._next(events, give_up_at)
                    watch.saw(event)
                    yield event
                    if isinstance(event, Finished):
                        return
            finally:
                self._abandon(job)

    def _abandon(self, job: _Job) -> None:
        """Its place in the queue is free at once, its rows before the next step."""
        job.abandoned = True
        if job.running is None:
            with self._changed, contextlib.suppress(ValueError):  # it has left the queue already, or never was in it
                self._waiting.remove(job)

    async def _next(self, events: Mailbox[Event | Exception], give_up_at: float | None) -> Event:
        try:
            if give_up_at is None:
                event = await events.get()
            else:
                async with asyncio.timeout_at(give_up_at):
                    event = await events.get()
        except TimeoutError:
            message = f"The answer took longer than {self._settings.request_timeout:g} s, the limit of this server."
            raise ServerError(503, message, "request_timeout", self._retry_after | NO_RETRY) from None
        if isinstance(event, Exception):
            raise event
        return event

    def _enqueue(self, job: _Job) -> None:
        with self._changed:
            if self._state != "ready":
                raise self._unavailable()
            arrived = len(self._waiting)
            inside = len(self._active) + len(self._joining)
            waiting = max(0, arrived + inside - self._settings.max_batch)  # the others join at the next step
            is_full = arrived + inside >= self._settings.max_batch
            if is_full and waiting >= self._settings.max_queue:
                message = f"{waiting} requests are waiting, as many as this server queues; try again later."
                raise ServerError(503, message, "overloaded", self._retry_after)
            if is_full:
                job.tell(Queued(waiting + 1))
            ahead = sum(other.interactive for other in self._waiting) if job.interactive else len(self._waiting)
            self._waiting.insert(ahead, job)
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
        try:
            while self._state != "stopped":
                self._take_arrivals()
                while self._joining:
                    self._join(engine, self._joining[0])
                self._cancel_abandoned(engine)
                self._step(engine)
        except BaseException:
            if self._state != "stopped":
                self._crash()
        for job in self._active:
            job.tell(self._unavailable())

    def _crash(self) -> None:
        log.critical("the engine has crashed", exc_info=True)
        with self._changed:
            self._state = "crashed"
            for job in self._waiting:
                job.tell(self._unavailable())
            self._waiting.clear()
        for job in (*self._joining, *self._active):
            job.tell(ServerError(500, "The engine has crashed on the way to this answer.", "engine_failed", NO_RETRY))
        self._active.clear()
        self._on_crash()

    def _take_arrivals(self) -> None:
        """Blocks while there is nothing to do."""
        with self._changed:
            self._changed.wait_for(lambda: self._active or self._waiting or self._state == "stopped")
            room = self._settings.max_batch - len(self._active)
            jobs = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
            self._joining.extend(job for job in jobs if not job.abandoned)

    def _join(self, engine: GenerationEngine, job: _Job) -> None:
        job.queue_ms = 1000 * (time.perf_counter() - job.enqueued)
        follows = job.wants != Wants()
        try:
            prepared = engine.prepare(job.request, job.queue_ms)
            note = (lambda progress: self._note(engine, job, progress)) if follows else None
            job.running = engine.submit(prepared, note, job.interactive)
        except Exception as error:
            self._look_after(engine, error)
            self._joining.popleft()
            job.tell(error)
        else:
            with self._changed:
                self._active.append(self._joining.popleft())
            job.tell(Admitted(job.queue_ms))

    def _look_after(self, engine: GenerationEngine, error: Exception) -> None:
        """After a failure that is not the request's own mistake: raises where the engine is lost with it."""
        if not isinstance(error, RequestError):
            engine.probe()

    def _note(self, engine: GenerationEngine, job: _Job, progress: Progress) -> None:
        """After each step of a job that somebody follows."""
        if job.wants.progress:
            job.tell(progress)
        if job.wants.speech and len(progress.audio) > job.num_codes:
            job.num_codes = len(progress.audio)
            self._media.submit(partial(self._speak, engine, job, progress.audio))
        is_due = progress.image and job.wants.is_preview_due(progress.step, progress.steps)
        if is_due and not job.is_drawing:
            job.is_drawing = True
            if not self._media.offer(partial(self._draw, engine, job, progress)):
                job.is_drawing = False

    def _speak(self, engine: GenerationEngine, job: _Job, codes: Sequence[int]) -> None:
        if job.abandoned:
            return
        try:
            audio = engine.speak(job.running, codes)
        except Exception as error:
            job.tell(error)
            return
        if len(audio.samples):
            job.tell(Spoken(audio.samples, audio.sample_rate))

    def _draw(self, engine: GenerationEngine, job: _Job, progress: Progress) -> None:
        try:
            if not (job.abandoned or job.is_answered):
                job.tell(Preview(progress.step, engine.draw(progress.image)))
        except Exception as error:  # the picture itself may still succeed
            log.warning("a preview failed: %r", error)
        finally:
            job.is_drawing = False

    def _cancel_abandoned(self, engine: GenerationEngine) -> None:
        for job in [job for job in self._active if job.abandoned]:
            engine.cancel(job.running)
            self._active.remove(job)

    def _step(self, engine: GenerationEngine) -> None:
        if not self._active:
            return
        began = time.perf_counter()
        try:
            left = engine.step()
        except Exception as error:  # not one request's misfortune, or the engine would have kept it to that one
            log.exception("a step failed")
            self._look_after(engine, error)
            for job in self._active:
                engine.cancel(job.running)
            failed, self._active = self._active, []
            for job in failed:
                job.tell(error)
            return
        self._work = engine.work
        self._metrics.stepped(self._work, time.perf_counter() - began)
        for running in left:
            if running.error is not None:
                self._look_after(engine, running.error)
        for running in left:
            job = next(job for job in self._active if job.running is running)
            self._active.remove(job)
            self._media.submit(partial(self._finish, engine, job))

    def _finish(self, engine: GenerationEngine, job: _Job) -> None:
        job.is_answered = True
        try:
            if job.running.error is not None:
                raise job.running.error
            if not job.abandoned:
                job.tell(Finished(engine.answer(job.running), job.queue_ms))
        except Exception as error:
            job.tell(error)

    @property
    def _retry_after(self) -> dict[str, str]:
        return {"retry-after": str(self._settings.retry_after_s)}

    def _unavailable(self) -> ServerError:
        messages = {
            "loading": "The model is still loading; try again in a moment.",
            "failed": "The model could not be loaded; the server's log says why.",
            "crashed": "The engine has crashed; this server is about to end.",
        }
        message = messages.get(self._state, "The server is shutting down.")
        return ServerError(503, message, "not_ready", self._retry_after)
