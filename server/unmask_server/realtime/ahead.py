"""An answer that is begun in a pause, before it is known whether the user has finished.

What is heard of a turn is settled some time before the silence that ends it is over (vad.py). Until then the engine can
take the recording in and begin to decode; whoever goes on speaking has that dropped. The events are those of a request
that is made at the end of the turn, only earlier.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator
from typing import Any, Literal

import numpy as np

from unmask_engine.request import GenerationRequest
from unmask_server.engine_client import EngineClient, Event, Finished, Wants
from unmask_server.metrics import Metrics


class HeadStart:
    """Belongs to one event loop."""

    def __init__(
        self, engine: EngineClient, request: GenerationRequest, wants: Wants, interactive: bool, metrics: Metrics
    ) -> None:
        self._engine, self._request, self._wants, self._interactive = engine, request, wants, interactive
        self._metrics, self._is_counted = metrics, False
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._has_failed = False
        self._task = asyncio.create_task(self._run())

    def fits(self, request: GenerationRequest, wants: Wants) -> bool:
        """It is this request's; one that has failed may yet succeed."""
        return not self._has_failed and wants == self._wants and is_same(request, self._request)

    async def events(self) -> AsyncGenerator[Event]:
        """As of `EngineClient.stream`, those of the past at once. For one reader."""
        self._count("used")
        try:
            while True:
                event = await self._events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.drop()

    def drop(self) -> None:
        """The engine's rows become free at the next step."""
        self._count("dropped")
        self._task.cancel()

    def _count(self, outcome: Literal["used", "dropped"]) -> None:
        if not self._is_counted:
            self._is_counted = True
            self._metrics.head_start(outcome)

    async def _run(self) -> None:
        try:
            stream = self._engine.stream(self._request, self._wants, self._interactive)
            async with contextlib.aclosing(stream) as events:
                async for event in events:
                    self._events.put_nowait(event)
        except Exception as error:
            self._has_failed = True
            self._events.put_nowait(error)


def stream(
    engine: EngineClient, request: GenerationRequest, wants: Wants, *, interactive: bool, begun: HeadStart | None
) -> AsyncGenerator[Event]:
    """The events of a request: of the one that is begun, if that is the same; it is dropped otherwise."""
    if begun is not None and begun.fits(request, wants):
        return begun.events()
    if begun is not None:
        begun.drop()
    return engine.stream(request, wants, interactive)


def dropped_after(task: asyncio.Task[None], begun: HeadStart | None) -> None:
    """With whatever was to make use of it, even if that has not run at all."""
    if begun is not None:
        task.add_done_callback(lambda _: begun.drop())


def is_same(one: Any, other: Any) -> bool:
    """Equal, samples and pixels included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    if dataclasses.is_dataclass(one):
        return all(is_same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return bool(one == other)
