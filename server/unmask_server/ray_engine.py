"""The engines of a Ray cluster as one: each request to the replica that has the least to do."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, Final

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException

from unmask_engine.request import GenerationRequest
from unmask_server.drain import Drain
from unmask_server.engine_client import Admitted, Event, Finished, Queued, Wants
from unmask_server.errors import NO_RETRY, ServerError
from unmask_server.metrics import Metrics
from unmask_server.ray_replica import Failed, Loaded
from unmask_server.settings import Settings

log = logging.getLogger("unmask")

POLL_S: Final = 1.0
OF_THE_ENGINE: Final = ("not_ready", "engine_failed")  # codes of what another replica may do better


class ReplicaLost(Exception):
    """The replica ended on the way to the answer."""


class RayEngine:
    """A request whose replica is lost is sent to another one, once, as long as nothing of its answer was told."""

    def __init__(self, handle: Any, settings: Settings, metrics: Metrics, drain: Drain, app_name: str) -> None:
        self._handle = handle
        self._settings = settings
        self._metrics = metrics
        self._drain = drain
        self._app_name = app_name
        self._loaded: Loaded | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._num_open = 0
        self._num_admitted = 0

    @property
    def is_alive(self) -> bool:
        """Ray replaces what fails."""
        return True

    @property
    def num_waiting(self) -> int:
        """Of this ingress."""
        return self._num_open - self._num_admitted

    @property
    def num_running(self) -> int:
        """Of this ingress."""
        return self._num_admitted

    @property
    def tokens_in_flight(self) -> int:
        """Not known here."""
        return 0

    @property
    def engine(self) -> Loaded:
        """Raises ServerError before the first replica has loaded it."""
        if self._loaded is None:
            message = "The model is still loading; try again in a moment."
            raise ServerError(503, message, "not_ready", self._retry_after)
        return self._loaded

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks = [self._loop.create_task(self._learn()), self._loop.create_task(self._await_end())]

    def stop(self) -> None:
        for task in self._tasks:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(task.cancel)

    async def generate(self, request: GenerationRequest, interactive: bool = False) -> Finished:
        async with contextlib.aclosing(self.stream(request, Wants(), interactive)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event
        raise self._lost()

    async def stream(
        self, request: GenerationRequest, wants: Wants, interactive: bool = False
    ) -> AsyncGenerator[Event]:
        """What is wrong before the first event, a full queue for one, is raised in its place."""
        with self._metrics.request(request) as watch, self._counted() as admit:
            self.engine  # noqa: B018  # raises while there is none
            is_last_try = False
            has_output = False
            give_up_at = self._give_up_at()
            while True:
                try:
                    async with contextlib.aclosing(self._try(request, wants, interactive, give_up_at)) as events:
                        async for event in events:
                            if isinstance(event, Queued | Admitted) and is_last_try:
                                continue  # has been told
                            has_output |= not isinstance(event, Queued | Admitted)
                            watch.saw(event)
                            if isinstance(event, Admitted):
                                admit()
                            yield event
                    return
                except ReplicaLost as error:
                    log.warning("an engine was lost: %r", error.__cause__)
                    if has_output or is_last_try:
                        raise self._lost() from error
                    is_last_try = True  # what ends every engine that it is sent to must not go round all of them

    async def _try(
        self, request: GenerationRequest, wants: Wants, interactive: bool, give_up_at: float | None
    ) -> AsyncGenerator[Event]:
        """The events from one replica; raises ReplicaLost where another one may do better."""
        events = self._handle.options(stream=True).stream.remote(request, wants, interactive)
        try:
            while True:
                try:
                    async with asyncio.timeout_at(give_up_at):
                        event = await anext(events)
                except TimeoutError:
                    message = f"The answer took longer than {self._settings.request_timeout:g} s, the limit here."
                    raise ServerError(503, message, "request_timeout", self._retry_after | NO_RETRY) from None
                except BackPressureError:
                    waiting = self._settings.max_queue
                    message = f"{waiting} requests are waiting, as many as this server queues; try again later."
                    raise ServerError(503, message, "overloaded", self._retry_after) from None
                except (RayError, RayServeException, StopAsyncIteration) as error:
                    raise ReplicaLost from error
                if isinstance(event, Failed):
                    if isinstance(event.error, ServerError) and event.error.code in OF_THE_ENGINE:
                        raise ReplicaLost from event.error
                    raise event.error
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            with contextlib.suppress(RayError, RayServeException):  # raised again where it was raised before
                events.cancel()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[Callable[[], None]]:
        is_admitted = False

        def admit() -> None:
            nonlocal is_admitted
            self._num_admitted += not is_admitted
            is_admitted = True

        self._num_open += 1
        try:
            yield admit
        finally:
            self._num_open -= 1
            self._num_admitted -= is_admitted

    async def _learn(self) -> None:
        while self._loaded is None:
            try:
                self._loaded = await self._handle.describe.remote()
            except (RayError, RayServeException) as error:
                log.warning("no engine is ready: %r", error)
                await asyncio.sleep(POLL_S)

    async def _await_end(self) -> None:
        """Ray does not tell an ingress that it is to end; its dialogues have to be told."""
        while not self._drain.begun.is_set():
            await asyncio.sleep(POLL_S)
            if await asyncio.to_thread(_is_ending, self._app_name):
                self._drain.begun.set()

    def _give_up_at(self) -> float | None:
        limit_s = self._settings.request_timeout
        return asyncio.get_running_loop().time() + limit_s if limit_s else None

    def _lost(self) -> ServerError:
        message = "The engine was lost on the way to this answer; ask again."
        return ServerError(503, message, "engine_lost", self._retry_after)

    @property
    def _retry_after(self) -> dict[str, str]:
        return {"retry-after": str(self._settings.retry_after_s)}


def _is_ending(app_name: str) -> bool:
    try:
        application = serve.status().applications.get(app_name)
    except (RayError, RayServeException):  # a controller that starts anew is no end
        return False
    return application is None or application.status == "DELETING"
