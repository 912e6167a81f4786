"""The one item of a response, told to the client as it grows, in the order that clients depend on."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from unmask_server.realtime.audio import SpeechOut, WireFormat
from unmask_server.realtime.conversation import Conversation
from unmask_server.realtime.events import JsonObject, event
from unmask_server.realtime.items import Content, Item, Said, Status, Text

Put = Callable[[JsonObject, str | None], None]  # an event, and the item whose sound it carries


class Reply:
    """`conversation` is None where the response stays outside of it. After `close` nothing more is told."""

    def __init__(
        self, put: Put, response_id: str, *, speaks: bool, format: WireFormat, conversation: Conversation | None
    ) -> None:
        self._put = put
        self._speaks, self._format = speaks, format
        self._conversation = conversation
        self._speech: SpeechOut | None = None
        self._text = ""
        self.item = Item("assistant", (), status="in_progress")
        self._where = {"response_id": response_id, "output_index": 0}
        self._part = {**self._where, "item_id": self.item.id, "content_index": 0}
        self._tell("response.output_item.added", **self._where, item=self.item.to_json())
        if conversation is not None:
            conversation.add(self.item)
            self._tell_conversation("conversation.item.added")
        self._tell("response.content_part.added", **self._part, part=self._part_json(""))

    def say(self, text: str) -> None:
        """All the text there is so far."""
        if delta := text[len(self._text) :]:
            self._text += delta
            kind = "output_audio_transcript" if self._speaks else "output_text"
            self._tell(f"response.{kind}.delta", **self._part, delta=delta)

    def speak(self, samples: NDArray[np.float32], rate: int) -> None:
        """The next samples."""
        if self._speech is None:
            self._speech = SpeechOut(self._format, rate)
        self._tell_speech(self._speech.feed(samples))

    def close(self, status: Status, *, interrupted: bool = False) -> None:
        if self._speech is not None and not interrupted:
            self._tell_speech(self._speech.flush())
        text = self._text
        if self._speaks:
            self._tell("response.output_audio.done", **self._part)
            self._tell("response.output_audio_transcript.done", **self._part, transcript=text)
        else:
            self._tell("response.output_text.done", **self._part, text=text)
        self._tell("response.content_part.done", **self._part, part=self._part_json(text))
        self.item = Item("assistant", (self._content(interrupted),), self.item.id, status)
        if self._conversation is not None and self._conversation.replace(self.item):
            self._tell_conversation("conversation.item.done")
        self._tell("response.output_item.done", **self._where, item=self.item.to_json())

    def _content(self, interrupted: bool) -> Content:
        if not self._speaks:
            return Text(self._text)
        spoken_ms = self._speech.duration_ms if self._speech is not None else 0
        return Said.interrupted(self._text, spoken_ms) if interrupted else Said(self._text, spoken_ms)

    def _part_json(self, text: str) -> JsonObject:
        return {"type": "audio", "transcript": text} if self._speaks else {"type": "text", "text": text}

    def _tell_speech(self, deltas: Iterator[str]) -> None:
        for delta in deltas:
            self._put(event("response.output_audio.delta", **self._part, delta=delta), self.item.id)

    def _tell(self, kind: str, **fields: object) -> None:
        self._put(event(kind, **fields), None)

    def _tell_conversation(self, kind: str) -> None:
        assert self._conversation is not None
        previous = self._conversation.previous_id(self.item.id)
        self._tell(kind, item=self.item.to_json(), previous_item_id=previous)
