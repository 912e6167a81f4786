"""What the user said, as text, told beside the dialogue."""

import asyncio
import contextlib
import logging
from typing import Final

from unmask_engine.request import Progress, RequestError, Usage
from unmask_server.bridge import EngineThread, Finished, Wants
from unmask_server.errors import ServerError
from unmask_server.realtime import ahead
from unmask_server.realtime.ahead import HeadStart, dropped_after
from unmask_server.realtime.config import Unmask
from unmask_server.realtime.conversation import Conversation
from unmask_server.realtime.dialogue import transcription
from unmask_server.realtime.events import JsonObject, error_json, event
from unmask_server.realtime.items import Item
from unmask_server.realtime.outbox import Outbox
from unmask_server.realtime.unmasking import FIELD, Unmasking

log = logging.getLogger("unmask")

TRANSCRIPT: Final = Wants(progress=True)
KIND: Final = "conversation.item.input_audio_transcription"


class Transcriptions:
    """Those of one session that are on their way, `limit` at a time."""

    def __init__(self, bridge: EngineThread, conversation: Conversation, outbox: Outbox, limit: int) -> None:
        self._bridge, self._conversation, self._outbox, self._limit = bridge, conversation, outbox, limit
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        return bool(self._tasks)

    def start(self, item: Item, wanted: Unmask, begun: HeadStart | None) -> None:
        """Of an item that is one recording; where there are too many, its failure is told."""
        if len(self._tasks) >= self._limit:
            if begun is not None:
                begun.drop()
            message = f"{len(self._tasks)} turns are being written down, as many as may be at a time."
            _tell_failure(self._outbox, item, RequestError(message, code="too_many_transcriptions"))
            return
        work = _transcribe(self._bridge, item, self._conversation, self._outbox, wanted, begun)
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        dropped_after(task, begun)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()


async def _transcribe(
    bridge: EngineThread,
    item: Item,
    conversation: Conversation,
    outbox: Outbox,
    wanted: Unmask,
    begun: HeadStart | None,
) -> None:
    """A failure is told, and hurts nothing else. What is `begun` may be it."""
    where = {"item_id": item.id, "content_index": 0}
    unmasking = Unmasking(wanted, lambda: outbox.is_behind)
    told = ""
    try:
        request = transcription(item.parts, wanted)
        stream = ahead.stream(bridge, request, TRANSCRIPT, interactive=False, begun=begun)
        async with contextlib.aclosing(stream) as events:
            async for happened in events:
                text, seen = None, None
                if isinstance(happened, Progress):
                    text, seen = happened.text, unmasking.after(happened)
                elif isinstance(happened, Finished):
                    text, usage = happened.generation.text, happened.generation.usage
                    seen = unmasking.finished(happened.generation)
                delta = "" if text is None else text[len(told) :]
                told += delta
                if delta or seen:
                    outbox.put(event(f"{KIND}.delta", **where, delta=delta, **({FIELD: seen} if seen else {})))
    except Exception as error:
        if not isinstance(error, RequestError | ServerError):
            log.exception("transcription failed")
        _tell_failure(outbox, item, error)
        return
    conversation.write_down(item.id, told)
    outbox.put(event(f"{KIND}.completed", **where, transcript=told, usage=_usage_json(usage)))


def _tell_failure(outbox: Outbox, item: Item, error: Exception) -> None:
    outbox.put(event(f"{KIND}.failed", item_id=item.id, content_index=0, error=error_json(error)))


def _usage_json(usage: Usage) -> JsonObject:
    given, made = usage.input_tokens, usage.output_tokens
    return {
        "type": "tokens",
        "input_tokens": sum(given.values()),
        "output_tokens": sum(made.values()),
        "total_tokens": sum(given.values()) + sum(made.values()),
        "input_token_details": {"text_tokens": given.get("text", 0), "audio_tokens": given.get("audio", 0)},
    }
