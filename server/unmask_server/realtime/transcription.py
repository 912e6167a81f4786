"""What the user said, as text, told beside the dialogue."""

import contextlib
import logging
from dataclasses import replace

from unmask_engine.request import Progress, RequestError, Usage
from unmask_server.bridge import EngineThread, Finished, Wants
from unmask_server.errors import ServerError, error_body
from unmask_server.realtime.conversation import Conversation
from unmask_server.realtime.dialogue import transcription
from unmask_server.realtime.events import Emit, JsonObject, event
from unmask_server.realtime.items import Heard, Item

log = logging.getLogger("unmask")

KIND = "conversation.item.input_audio_transcription"


async def transcribe(bridge: EngineThread, item: Item, conversation: Conversation, emit: Emit) -> None:
    """Of an item that is one recording. A failure is told, and hurts nothing else."""
    where = {"item_id": item.id, "content_index": 0}
    told = ""
    try:
        async with contextlib.aclosing(bridge.stream(transcription(item.parts), Wants(progress=True))) as events:
            async for happened in events:
                text = None
                if isinstance(happened, Progress):
                    text = happened.text
                elif isinstance(happened, Finished):
                    text, usage = happened.generation.text, happened.generation.usage
                if text is not None and (delta := text[len(told) :]):
                    told += delta
                    emit(event(f"{KIND}.delta", **where, delta=delta))
    except Exception as error:
        if not isinstance(error, RequestError | ServerError):
            log.exception("transcription failed")
        body = error_body(error)["error"]
        emit(event(f"{KIND}.failed", **where, error=body))
        return
    heard = item.content[0]
    assert isinstance(heard, Heard)
    conversation.replace(replace(item, content=(replace(heard, transcript=told),)))
    emit(event(f"{KIND}.completed", **where, transcript=told, usage=_usage_json(usage)))


def _usage_json(usage: Usage) -> JsonObject:
    given, made = usage.input_tokens, usage.output_tokens
    return {
        "type": "tokens",
        "input_tokens": sum(given.values()),
        "output_tokens": sum(made.values()),
        "total_tokens": sum(given.values()) + sum(made.values()),
        "input_token_details": {"text_tokens": given.get("text", 0), "audio_tokens": given.get("audio", 0)},
    }
