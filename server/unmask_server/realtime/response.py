"""One response: from `response.created` to `response.done`, whatever happens in between."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from unmask_engine.request import Generation, GenerationRequest, Progress, RequestError, Usage
from unmask_server.bridge import Admitted, EngineThread, Finished, Spoken, Wants
from unmask_server.errors import ServerError
from unmask_server.metrics import Metrics
from unmask_server.realtime import ahead
from unmask_server.realtime.ahead import HeadStart, dropped_after
from unmask_server.realtime.captions import Captions
from unmask_server.realtime.config import Session
from unmask_server.realtime.conversation import Conversation
from unmask_server.realtime.dialogue import Plan
from unmask_server.realtime.events import JsonObject, error_json, event, new_id
from unmask_server.realtime.outbox import Outbox
from unmask_server.realtime.playback import Playback
from unmask_server.realtime.reply import Reply
from unmask_server.realtime.unmasking import Unmasking

log = logging.getLogger("unmask")

Interruption = Literal["turn_detected", "client_cancelled"]


class Response:
    """Belongs to one session. `conversation` is None for one that stays outside of the conversation."""

    def __init__(
        self,
        outbox: Outbox,
        bridge: EngineThread,
        session: Session,
        conversation: Conversation | None,
        metadata: dict[str, str] | None,
        metrics: Metrics,
    ) -> None:
        self.id = new_id("resp")
        self._metrics, self._playback = metrics, Playback()
        self._unmasking = Unmasking(session.x_unmask, lambda: outbox.is_behind)
        self._captions = Captions(session.x_unmask.word_times and "audio" in session.output_modalities)
        self._outbox, self._bridge = outbox, bridge
        self._session, self._conversation, self._metadata = session, conversation, metadata
        self._reply: Reply | None = None
        self._usage: list[Usage] = []
        self._made_s = 0.0  # of sound, by the requests that are done
        self._task: asyncio.Task[None] | None = None
        self.is_over = False
        self._is_interrupted = False

    @property
    def is_in_conversation(self) -> bool:
        return self._conversation is not None

    @property
    def left_s(self) -> float:
        """Of its sound, still to be played; nothing where it was interrupted."""
        return 0.0 if self._is_interrupted else self._playback.left_s

    def start(self, make_plan: Callable[[], Plan], begun: HeadStart | None, done: Callable[["Response"], None]) -> None:
        """`done` is called once nothing more of it will be told; what is `begun` may be its answer."""
        self._outbox.put(event("response.created", response=self._to_json("in_progress", None)))
        self._task = asyncio.create_task(self._run(make_plan, begun))
        dropped_after(self._task, begun)
        self._task.add_done_callback(lambda _: done(self))

    def interrupt(self, reason: Interruption) -> None:
        """At once: the sound that has not left is taken back, and what the client waits for is closed."""
        self._is_interrupted = True
        if self._reply is not None:
            self._reply.take_back(self._outbox.take_back_speech(self._reply.item.id))
        self._metrics.interrupted(reason)
        self._finish("cancelled", {"type": "cancelled", "reason": reason})
        self.abandon()

    def abandon(self) -> None:
        """The engine's rows become free at the next step; nothing is told."""
        self.is_over = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self, make_plan: Callable[[], Plan], begun: HeadStart | None) -> None:
        try:
            plan = make_plan()
            answer = await self._follow(plan.answer, begun)
            for request in plan.speech(answer.text or ""):
                await self._follow(request)
        except (RequestError, ServerError) as error:
            self._fail(error)
        except Exception as error:
            log.exception("response %s failed", self.id)
            self._fail(error)
        else:
            if answer.truncated:
                self._finish("incomplete", {"type": "incomplete", "reason": "max_output_tokens"})
            else:
                self._finish("completed", {"type": "completed"})

    async def _follow(self, request: GenerationRequest, begun: HeadStart | None = None) -> Generation:
        wants = wanted(request, self._session)
        num_spoken = 0
        stream = ahead.stream(self._bridge, request, wants, interactive=True, begun=begun)
        async with contextlib.aclosing(stream) as events:
            async for item in events:
                if isinstance(item, Admitted):
                    reply = self._opened()
                elif isinstance(item, Progress):
                    reply.say(self._captions.grown(item.text), self._unmasking.after(item))
                elif isinstance(item, Spoken):
                    num_spoken += len(item.samples)
                    reply.speak(item.samples, item.sample_rate)
                    self._playback.sent(reply.spoken_ms / 1000)
                elif isinstance(item, Finished):
                    generation = item.generation
        self._usage.append(generation.usage)
        seen: JsonObject | None = self._unmasking.finished(generation, self._made_s)
        text = self._captions.grown(generation.text)
        for told, start_s in self._captions.timed(generation.words, self._made_s):
            reply.say(told, seen, start_s)
            seen = None
        reply.say(text, seen)
        if (audio := generation.audio) is not None:
            reply.speak(audio.samples[num_spoken:], audio.sample_rate)
            self._playback.sent(reply.spoken_ms / 1000)
            self._made_s += len(audio.samples) / audio.sample_rate
        return generation

    def _opened(self) -> Reply:
        if self._reply is None:
            speaks = "audio" in self._session.output_modalities
            format = self._session.audio.output.wire_format
            self._reply = Reply(
                self._outbox.put, self.id, speaks=speaks, format=format, conversation=self._conversation
            )
        return self._reply

    def _fail(self, error: Exception) -> None:
        body = error_json(error)
        kept = {name: body[name] for name in ("type", "code", "message")}
        self._finish("failed", {"type": "failed", "error": kept})

    def _finish(self, status: str, details: JsonObject) -> None:
        if self.is_over:
            return
        self.is_over = True
        if self._reply is not None:
            self._reply.say(self._captions.all)
            self._reply.close(
                "completed" if status == "completed" else "incomplete", interrupted=status in ("cancelled", "failed")
            )
        if status in ("completed", "incomplete") and (first_s := self._playback.first_s) is not None:
            self._metrics.spoke(first_s, self._playback.rtf, self._playback.underrun_s)
        self._outbox.put(event("response.done", response=self._to_json(status, details)))

    def _to_json(self, status: str, details: JsonObject | None) -> JsonObject:
        output = self._session.audio.output
        is_done = details is not None
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "conversation_id": self._conversation.id if self._conversation is not None else None,
            "output": [self._reply.item.to_json()] if is_done and self._reply is not None else [],
            "output_modalities": self._session.output_modalities,
            "max_output_tokens": self._session.max_output_tokens,
            "audio": {"output": {"format": output.wire_format.to_json(), "voice": output.voice}},
            "metadata": self._metadata,
            "usage": usage_json(self._usage) if is_done else None,
        }


def wanted(request: GenerationRequest, session: Session) -> Wants:
    """What is followed of a request."""
    shows_canvas = session.x_unmask.every_steps > 0
    return Wants(progress="text" in request.outputs or shows_canvas, speech="audio" in request.outputs)


def usage_json(usages: list[Usage]) -> JsonObject:
    """Of all requests together, in the words of the Realtime API."""
    given: Counter[Any] = Counter()
    made: Counter[Any] = Counter()
    for usage in usages:
        given.update(usage.input_tokens)
        made.update(usage.output_tokens)
    return {
        "total_tokens": given.total() + made.total(),
        "input_tokens": given.total(),
        "output_tokens": made.total(),
        "input_token_details": {
            "text_tokens": given["text"],
            "audio_tokens": given["audio"],
            "image_tokens": given["image"],
            "cached_tokens": 0,
            "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0},
        },
        "output_token_details": {"text_tokens": made["text"], "audio_tokens": made["audio"]},
    }
