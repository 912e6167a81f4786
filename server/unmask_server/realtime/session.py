"""One dialogue: each event of the client, and what follows from it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from unmask_engine.media import MediaLimits
from unmask_engine.request import RequestError
from unmask_server.bridge import EngineThread
from unmask_server.errors import ServerError
from unmask_server.metrics import Metrics
from unmask_server.realtime.ahead import HeadStart
from unmask_server.realtime.audio import Samples
from unmask_server.realtime.config import ResponseOptions, Session, parsed
from unmask_server.realtime.conversation import Conversation, without_old_media
from unmask_server.realtime.dialogue import plan, transcription
from unmask_server.realtime.events import JsonObject, error_event, event, new_id, read_object
from unmask_server.realtime.items import Heard, Item, read_item
from unmask_server.realtime.limits import RealtimeLimits
from unmask_server.realtime.listener import Listener, TurnEnded, TurnMissed, TurnPaused, TurnResumed, TurnStarted
from unmask_server.realtime.outbox import Outbox
from unmask_server.realtime.response import Response, wanted
from unmask_server.realtime.transcription import TRANSCRIPT, Transcriptions
from unmask_server.realtime.unmasking import check_word_times

REFERENCE: Final = "item_reference"  # an entry of a response's `input` that is in the conversation already


class RealtimeSession:
    """Belongs to one connection. Events are handled one after another; responses run beside them."""

    def __init__(
        self,
        outbox: Outbox,
        bridge: EngineThread,
        session: Session,
        *,
        model: str,
        limits: RealtimeLimits,
        media: MediaLimits,
        media_slots: asyncio.Semaphore,
        metrics: Metrics,
    ) -> None:
        self.id = new_id("sess")
        self._outbox, self._bridge, self._session = outbox, bridge, session
        self._model, self._limits, self._media, self._media_slots = model, limits, media, media_slots
        self._metrics = metrics
        self._expires_at = int(time.time() + limits.max_session_s)
        self._conversation = Conversation(limits)
        self._listener = Listener(session.audio.input, limits, metrics)
        self._head_start: HeadStart | None = None  # of the turn that has paused
        self._responses: set[Response] = set()
        self._transcriptions = Transcriptions(bridge, self._conversation, outbox, limits.max_transcriptions)
        self._handlers: dict[str, Callable[[JsonObject], Awaitable[None]]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
            "conversation.item.create": self._create_item,
            "conversation.item.retrieve": self._retrieve_item,
            "conversation.item.delete": self._delete_item,
            "conversation.item.truncate": self._truncate_item,
            "response.create": self._create_response,
            "response.cancel": self._cancel_response,
            "output_audio_buffer.clear": _nothing,  # of WebRTC: here the client holds what is played
        }
        self._tell("session.created", session=self._echo())

    async def handle(self, text: str) -> None:
        """Whatever is wrong with it is told, and the session goes on."""
        cause: Any = None
        try:
            wire = read_object(text)
            cause = wire.get("event_id")
            handler = self._handlers.get(str(wire.get("type")))
            if handler is None:
                message = f"There is no event {str(wire.get('type'))[:64]!r}; there are: {', '.join(self._handlers)}."
                raise RequestError(message, param="type", code="unknown_event")
            await handler(wire)
        except (RequestError, ServerError) as error:
            self._outbox.put(error_event(error, cause))
        except RecursionError:
            self._outbox.put(error_event(RequestError("The event is nested too deeply.", code="invalid_json"), cause))

    def refuse(self, error: RequestError) -> None:
        """A message that is not even read."""
        self._outbox.put(error_event(error))

    @property
    def is_busy(self) -> bool:
        """Something is being answered or written down."""
        return bool(self._responses) or self._transcriptions.is_busy

    def close(self) -> None:
        """Everything that runs for it stops."""
        self._drop_head_start()
        for response in list(self._responses):
            response.abandon()
        self._transcriptions.cancel()

    async def _update(self, wire: JsonObject) -> None:
        session = self._session.updated(wire.get("session"))
        check_word_times(session.x_unmask, self._bridge.engine.bundle)
        self._session = session
        self._listener.configure(self._session.audio.input)
        self._tell("session.updated", session=self._echo())

    async def _append(self, wire: JsonObject) -> None:
        for turn in await self._listener.hear(wire.get("audio")):
            detection = self._session.audio.input.turn_detection
            assert detection is not None
            if isinstance(turn, TurnStarted):
                self._tell("input_audio_buffer.speech_started", audio_start_ms=turn.ms, item_id=turn.item_id)
                if detection.interrupt_response and (active := self._active()) is not None:
                    active.interrupt("turn_detected")
            elif isinstance(turn, TurnPaused):
                self._begin_ahead(turn)
            elif isinstance(turn, TurnResumed):
                self._drop_head_start()
            elif isinstance(turn, TurnEnded):
                self._tell("input_audio_buffer.speech_stopped", audio_end_ms=turn.ms, item_id=turn.item_id)
                self._end(turn)
            else:
                where = {"audio_start_ms": turn.start_ms, "audio_end_ms": turn.ms, "item_id": turn.item_id}
                self._tell("input_audio_buffer.timeout_triggered", **where)
                self._end(turn)

    def _end(self, turn: TurnEnded | TurnMissed) -> None:
        begun, self._head_start = self._head_start, None
        is_answered = self._is_next_turn_answered
        self._hear(turn.item_id, turn.samples, None if is_answered else begun)
        if is_answered:
            self._answer(begun)

    @property
    def _is_next_turn_answered(self) -> bool:
        detection = self._session.audio.input.turn_detection
        creates = detection is not None and detection.create_response
        return creates and self._session.type == "realtime" and self._active() is None

    def _begin_ahead(self, turn: TurnPaused) -> None:
        """What the engine will be asked if the turn has ended; where others wait for a place, it is not."""
        self._drop_head_start()
        if self._bridge.num_waiting or not self._limits.head_starts:
            return
        item = Item("user", (Heard(turn.samples, self._listener.rate),), turn.item_id)
        try:
            if self._is_next_turn_answered:
                context, presets = (*self._conversation.items, item), self._bridge.engine.bundle.presets
                request = plan(context, presets, self._session, None).answer
                wants = wanted(request, self._session)
            elif self._session.transcribes:
                request, wants = transcription(item.parts, self._session.x_unmask), TRANSCRIPT
            else:
                return
        except (RequestError, ServerError):  # told at the end of the turn
            return
        self._head_start = HeadStart(self._bridge, request, wants, self._is_next_turn_answered, self._metrics)

    def _drop_head_start(self) -> None:
        if self._head_start is not None:
            self._head_start.drop()
            self._head_start = None

    def _answer(self, begun: HeadStart | None) -> None:
        """The turn that has just ended; where that cannot be, the turns after it are heard all the same."""
        try:
            self._respond(ResponseOptions(), None, begun)
        except RequestError as error:
            if begun is not None:
                begun.drop()
            self._outbox.put(error_event(error))

    async def _commit(self, _: JsonObject) -> None:
        item_id, samples = self._listener.commit()
        self._drop_head_start()
        self._hear(item_id, samples, None)

    def _hear(self, item_id: str, samples: Samples, begun: HeadStart | None) -> None:
        item = Item("user", (Heard(samples, self._listener.rate),), item_id)
        self._conversation.add(item)
        self._tell(
            "input_audio_buffer.committed", item_id=item_id, previous_item_id=self._conversation.previous_id(item_id)
        )
        self._tell_item(item)
        if self._session.transcribes:
            self._transcriptions.start(item, self._session.x_unmask, begun)
        elif begun is not None:
            begun.drop()

    async def _clear(self, _: JsonObject) -> None:
        self._listener.clear()
        self._drop_head_start()
        self._tell("input_audio_buffer.cleared")

    async def _create_item(self, wire: JsonObject) -> None:
        item = await self._read_item(wire.get("item"), "item")
        self._conversation.add(item, wire.get("previous_item_id"))
        self._tell_item(item)

    async def _retrieve_item(self, wire: JsonObject) -> None:
        item = self._conversation.get(wire.get("item_id"), "retrieve")
        self._tell("conversation.item.retrieved", item=item.to_json(with_audio=True))

    async def _delete_item(self, wire: JsonObject) -> None:
        item = self._conversation.get(wire.get("item_id"), "delete")
        self._conversation.remove(item)
        self._tell("conversation.item.deleted", item_id=item.id)

    async def _truncate_item(self, wire: JsonObject) -> None:
        item, end_ms = self._conversation.get(wire.get("item_id"), "truncate"), wire.get("audio_end_ms")
        if item.role != "assistant" or not isinstance(end_ms, int) or isinstance(end_ms, bool):
            message = "Truncate an assistant's message, at `audio_end_ms`, an integer."
            raise RequestError(message, param="audio_end_ms", code="invalid_value")
        self._conversation.truncate(item, end_ms)
        index = wire.get("content_index")
        is_index = isinstance(index, int) and not isinstance(index, bool)
        self._tell(
            "conversation.item.truncated",
            item_id=item.id,
            content_index=index if is_index else 0,
            audio_end_ms=max(end_ms, 0),
        )

    async def _create_response(self, wire: JsonObject) -> None:
        options = parsed(ResponseOptions, wire.get("response") or {}, "response")
        if self._session.type == "transcription":
            message = "A transcription session makes no responses."
            raise RequestError(message, param="type", code="transcription_session")
        given: list[Item] | None = None
        if options.input is not None:
            given = []
            for i, item in enumerate(options.input):
                given.append(await self._input_item(item, f"response.input[{i}]"))
                if given[-1].media:  # no more of them at a time than a conversation keeps
                    given = without_old_media(given, self._limits)
        self._respond(options, given)

    def _respond(self, options: ResponseOptions, items: list[Item] | None, begun: HeadStart | None = None) -> None:
        session = options.over(self._session)
        is_outside = options.conversation == "none"
        if not is_outside and self._active() is not None:
            message = "Conversation already has an active response in progress; wait until it is done or cancel it."
            raise RequestError(message, code="conversation_already_has_active_response")
        if len(self._responses) >= self._limits.max_responses:
            message = f"{len(self._responses)} responses are in progress, as many as a session may have at a time."
            raise RequestError(message, code="too_many_responses")
        conversation = None if is_outside else self._conversation
        response = Response(self._outbox, self._bridge, session, conversation, options.metadata, self._metrics)
        self._responses.add(response)
        if not is_outside:
            self._listener.stop_waiting()
        context = self._conversation.items if items is None else items
        presets = self._bridge.engine.bundle.presets
        response.start(lambda: plan(context, presets, session, options.instructions), begun, done=self._done)

    def _done(self, response: Response) -> None:
        self._responses.discard(response)
        if response.is_in_conversation and self._active() is None:
            self._listener.wait(response.left_s)

    async def _cancel_response(self, wire: JsonObject) -> None:
        wanted = wire.get("response_id")
        named = [r for r in self._responses if r.id == wanted] if wanted is not None else [self._active()]
        for response in named:
            if response is not None and not response.is_over:
                response.interrupt("client_cancelled")
                return
        raise RequestError(
            "Cancellation failed: no active response found", param="response_id", code="response_cancel_not_active"
        )

    async def _read_item(self, wire: object, param: str) -> Item:
        format = self._session.audio.input.wire_format
        return await read_item(wire, format, self._media, self._media_slots, param)

    async def _input_item(self, wire: JsonObject, param: str) -> Item:
        if wire.get("type") == REFERENCE:
            return self._conversation.get(wire.get("id"), "reference")
        return await self._read_item(wire, param)

    def _active(self) -> Response | None:
        """The response that the conversation is being given."""
        return next((r for r in self._responses if r.is_in_conversation and not r.is_over), None)

    def _tell(self, kind: str, **fields: Any) -> None:
        self._outbox.put(event(kind, **fields))

    def _tell_item(self, item: Item) -> None:
        for kind in ("conversation.item.added", "conversation.item.done"):
            self._tell(kind, item=item.to_json(), previous_item_id=self._conversation.previous_id(item.id))

    def _echo(self) -> JsonObject:
        return self._session.echo(self.id, self._model, self._expires_at)


async def _nothing(_: JsonObject) -> None:
    pass
