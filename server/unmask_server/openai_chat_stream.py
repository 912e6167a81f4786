"""The engine's events -> chat completion chunks, which together say what the whole completion says."""

import asyncio
import base64
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from unmask_engine.audio_stream import AudioWriter
from unmask_engine.request import AudioPart, Generation, Progress
from unmask_server.engine_client import Event, Finished, Spoken, Wants
from unmask_server.openai_chat_answer import Reply, finish_reason, image_url, usage
from unmask_server.openai_text import TextStream
from unmask_server.sse import DONE, event


class ChatStream:
    def __init__(self, reply: Reply, include_usage: bool) -> None:
        self._reply = reply
        self._include_usage = include_usage
        self._text = TextStream(reply.stops)
        self._writer = AudioWriter("pcm")
        self._num_samples = 0

    @property
    def wants(self) -> Wants:
        return Wants(progress=True, speech=self._speaks)

    async def frames(self, events: AsyncGenerator[Event]) -> AsyncGenerator[bytes]:
        first = {"audio": {"id": self._reply.audio_id, "transcript": ""}} if self._speaks else {}
        content = "" if "text" in self._reply.modalities and not self._speaks else None
        yield self._chunk({"role": "assistant", "content": content} | first)
        async with aclosing(events):
            async for happened in events:
                if isinstance(happened, Progress):
                    for frame in self._words(happened.text or ""):
                        yield frame
                elif isinstance(happened, Spoken):
                    for frame in self._sound(AudioPart(happened.samples, happened.sample_rate)):
                        yield frame
                elif isinstance(happened, Finished):
                    async for frame in self._rest(happened.generation):
                        yield frame
        yield DONE

    async def _rest(self, generation: Generation) -> AsyncGenerator[bytes]:
        for frame in self._words(generation.text or "", final=True):
            yield frame
        if self._speaks and generation.audio is not None:
            rest = generation.audio.samples[self._num_samples :]
            for frame in self._sound(AudioPart(rest, generation.audio.sample_rate), final=True):
                yield frame
            yield self._chunk({"audio": {"id": self._reply.audio_id, "expires_at": self._reply.expires_at}})
        if "image" in self._reply.modalities and generation.image is not None:
            yield self._chunk({"images": [await asyncio.to_thread(image_url, generation.image)]})
        yield self._chunk({}, finish_reason(generation), self._reply.logprobs(generation))
        if self._include_usage:
            yield event(self._head | {"choices": [], "usage": usage(generation)})

    def _words(self, text: str, *, final: bool = False) -> Iterator[bytes]:
        """`text` is all there is so far."""
        if "text" in self._reply.modalities and (new := self._text.feed(text, final=final)):
            spoken = {"audio": {"id": self._reply.audio_id, "transcript": new}}
            yield self._chunk(spoken if self._speaks else {"content": new})

    def _sound(self, audio: AudioPart, *, final: bool = False) -> Iterator[bytes]:
        """Each piece is base64 of its own, at most a second of whole samples."""
        for start in range(0, len(audio.samples), audio.sample_rate):
            piece = audio.samples[start : start + audio.sample_rate]
            yield from self._piece(self._writer.write(AudioPart(piece, audio.sample_rate)))
        self._num_samples += len(audio.samples)
        if final:
            yield from self._piece(self._writer.close())

    def _piece(self, data: bytes) -> Iterator[bytes]:
        if data:
            text = base64.b64encode(data).decode()
            yield self._chunk({"audio": {"id": self._reply.audio_id, "data": text}})

    def _chunk(
        self, delta: dict[str, Any], finish_reason: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return event(self._head | {"choices": [choice]} | ({"usage": None} if self._include_usage else {}))

    @property
    def _head(self) -> dict[str, Any]:
        reply = self._reply
        return {
            "id": reply.id,
            "object": "chat.completion.chunk",
            "created": reply.created,
            "model": reply.model,
        }

    @property
    def _speaks(self) -> bool:
        return "audio" in self._reply.modalities
