"""The one item of a response, told to the client as it grows, in the order that clients depend on."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from unmask_server.realtime.audio import Piece, SpeechOut, WireFormat
from unmask_server.realtime.conversation import Conversation
from unmask_server.realtime.events import JsonObject, event
from unmask_server.realtime.items import Content, Item, Said, Status, Text
from unmask_server.realtime.outbox import Sound
from unmask_server.realtime.unmasking import FIELD

Put = Callable[[JsonObject, Sound | None], None]  # an event, and what sound it carries


class Reply:
    """`conversation` is None where the response stays outside of it. After `close` nothing more is told."""

    def __init__(
        self, put: Put, response_id: str, *, speaks: bool, format: WireFormat, conversation: Conversation | None
    ) -> None:
        self._put = put
        self._speaks, self._format = speaks, format
        self._conversation = conversation
        self._speech: SpeechOut | None = None
        self._num_samples = 0  # of the sound told so far, in the wire's format
        self._text = ""
        self.item = Item("assistant", (), status="in_progress")
        self._where = {"response_id": response_id, "output_index": 0}
        self._part = {**self._where, "item_id": self.item.id, "content_index": 0}
        self._tell("response.output_item.added", **self._where, item=self.item.to_json())
        if conversation is not None:
            conversation.add(self.item)
            self._tell_conversation("conversation.item.added")
        self._tell("response.content_part.added", **self._part, part=self._part_json(""))

    def say(self, text: str | None, seen: JsonObject | None = None, start_s: float | None = None) -> None:
        """All the text there is so far, or None where nothing is added; `seen` is told with it, or by itself.

        `start_s` is when what is added is said, in the reply.
        """
        delta = "" if text is None else text[len(self._text) :]
        self._text += delta
        if delta or seen:
            kind = "output_audio_transcript" if self._speaks else "output_text"
            extras: JsonObject = {FIELD: seen} if seen else {}
            if start_s is not None:
                extras["start_time"] = round(start_s, 3)
            self._tell(f"response.{kind}.delta", **self._part, delta=delta, **extras)

    def speak(self, samples: NDArray[np.float32], rate: int) -> None:
        """The next samples."""
        if self._speech is None:
            self._speech = SpeechOut(self._format, rate)
        self._tell_speech(self._speech.feed(samples))

    def take_back(self, num_samples: int) -> None:
        """The last ones are not told after all."""
        self._num_samples -= num_samples

    @property
    def spoken_ms(self) -> int:
        """Of the sound told so far."""
        return 1000 * self._num_samples // self._format.rate

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
        said = Said.interrupted if interrupted else Said
        return said(self._text, self.spoken_ms)

    def _part_json(self, text: str) -> JsonObject:
        return {"type": "audio", "transcript": text} if self._speaks else {"type": "text", "text": text}

    def _tell_speech(self, pieces: Iterator[Piece]) -> None:
        for piece in pieces:
            self._num_samples += piece.num_samples
            sound = Sound(self.item.id, piece.num_samples)
            self._put(event("response.output_audio.delta", **self._part, delta=piece.audio), sound)

    def _tell(self, kind: str, **fields: object) -> None:
        self._put(event(kind, **fields), None)

    def _tell_conversation(self, kind: str) -> None:
        assert self._conversation is not None
        previous = self._conversation.previous_id(self.item.id)
        self._tell(kind, item=self.item.to_json(), previous_item_id=previous)
