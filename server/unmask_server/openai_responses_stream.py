"""The engine's events -> the events of a Response, each with its place in the order."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from unmask_engine.request import Generation, Progress
from unmask_server.engine_client import Event, Finished
from unmask_server.openai_responses_answer import Told, status
from unmask_server.openai_text import TextStream
from unmask_server.sse import event


class ResponseStream:
    def __init__(self, told: Told) -> None:
        self._told = told
        self._text = TextStream(())
        self._sequence = 0

    async def frames(self, events: AsyncGenerator[Event]) -> AsyncGenerator[bytes]:
        for frame in self._beginning():
            yield frame
        async with aclosing(events):
            async for happened in events:
                if isinstance(happened, Progress):
                    for frame in self._words(happened.text or ""):
                        yield frame
                elif isinstance(happened, Finished):
                    for frame in self._end(happened.generation):
                        yield frame

    def _beginning(self) -> Iterator[bytes]:
        told = self._told
        yield self._event("response.created", response=told.unfinished())
        yield self._event("response.in_progress", response=told.unfinished())
        yield self._event("response.output_item.added", output_index=0, item=told.item("in_progress", []))
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield self._of_part("response.content_part.added", part=part)

    def _words(self, text: str, *, final: bool = False) -> Iterator[bytes]:
        """`text` is all there is so far."""
        if new := self._text.feed(text, final=final):
            yield self._of_part("response.output_text.delta", delta=new, logprobs=[])

    def _end(self, generation: Generation) -> Iterator[bytes]:
        told, made = self._told, status(generation)
        part = told.part(generation)
        yield from self._words(part["text"], final=True)
        yield self._of_part("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
        yield self._of_part("response.content_part.done", part=part)
        yield self._event("response.output_item.done", output_index=0, item=told.item(made, [part]))
        yield self._event(f"response.{made}", response=told.finished(generation))

    def _of_part(self, type: str, **data: Any) -> bytes:
        return self._event(type, item_id=self._told.item_id, output_index=0, content_index=0, **data)

    def _event(self, type: str, **data: Any) -> bytes:
        frame = event({"type": type, "sequence_number": self._sequence} | data, type)
        self._sequence += 1
        return frame
