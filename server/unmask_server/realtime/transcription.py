"""What the user said, as text, told beside the dialogue."""

import contextlib
import logging
from typing import Final

from unmask_engine.request import Progress, RequestError, Usage
from unmask_server.bridge import EngineThread, Finished, Wants
from unmask_server.errors import ServerError
from unmask_server.realtime import ahead
from unmask_server.realtime.ahead import HeadStart
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


async def transcribe(
    bridge: EngineThread,
    item: Item,
    conversation: Conversation,
    outbox: Outbox,
    wanted: Unmask,
    begun: HeadStart | None = None,
) -> None:
    """Of an item that is one recording. A failure is told, and hurts nothing else. What is `begun` may be it."""
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
        tell_failure(outbox, item, error)
        return
    conversation.write_down(item.id, told)
    outbox.put(event(f"{KIND}.completed", **where, transcript=told, usage=_usage_json(usage)))


def tell_failure(outbox: Outbox, item: Item, error: Exception) -> None:
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
