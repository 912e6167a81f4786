"""Several native requests behind one of OpenAI's: the sentences of a text, the pauses of a recording, `n` pictures."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from unmask_engine.request import Generation, GenerationRequest
from unmask_server.engine_client import EngineClient, Event, Finished, Wants
from unmask_server.errors import ServerError
from unmask_server.openai_wire import naming

RETRY_S: Final = 0.2
AT_ONCE: Final = 10  # of one request in the engine; the most pictures that may be asked for


async def in_turn(
    bridge: EngineClient, works: Sequence[GenerationRequest], wants: Wants, names: Mapping[str, str]
) -> AsyncGenerator[Event]:
    """The events of one after the other, though they are decoded together. Closing it cancels what still runs.

    `names` are the endpoint's own for the native request's fields.
    """
    places = asyncio.Semaphore(AT_ONCE)
    told: list[asyncio.Queue[Event | Exception]] = [asyncio.Queue() for _ in works]

    async def follow(index: int) -> None:
        async with places:
            try:
                async for event in _admitted(bridge, works[index], wants, is_patient=index > 0):
                    told[index].put_nowait(event)
            except Exception as error:
                told[index].put_nowait(error)

    tasks = [asyncio.create_task(follow(index)) for index in range(len(works))]
    try:
        for queue in told:
            event: Event | Exception | None = None
            while not isinstance(event, Finished):
                event = await queue.get()
                if isinstance(event, Exception):
                    with naming(names):
                        raise event
                yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def answers(
    bridge: EngineClient, works: Sequence[GenerationRequest], names: Mapping[str, str]
) -> list[Generation]:
    """What `in_turn` ends with."""
    return [e.generation async for e in in_turn(bridge, works, Wants(), names) if isinstance(e, Finished)]


async def _admitted(
    bridge: EngineClient, work: GenerationRequest, wants: Wants, *, is_patient: bool
) -> AsyncGenerator[Event]:
    """A full queue refuses the first of several; then nothing has been sent. The others wait for room in it."""
    while True:
        try:
            async with aclosing(bridge.stream(work, wants)) as events:
                async for event in events:
                    yield event
            return
        except ServerError as error:
            if not is_patient or error.code != "overloaded":
                raise
        await asyncio.sleep(RETRY_S)
