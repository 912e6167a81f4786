"""`"stream": true` on `POST /v1/generate`: the engine's events as the server-sent events of docs/api.md."""

import asyncio
import base64
import math
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask_engine.edit_paste import in_place
from unmask_engine.media import write_audio, write_image
from unmask_engine.request import AudioPart, Edit, Generation, ImagePart, Progress, Tokens
from unmask_server.answer import as_json, new_id, timed_words, whole_answer
from unmask_server.bridge import Event, Finished, Preview, Queued, Spoken, Wants
from unmask_server.schema import GenerateAnswer, GenerateRequest, ImageAnswer, Output
from unmask_server.sse import DONE, event


@dataclass(eq=False)
class Telling:
    """One answer on its way out, and how much of it has been said."""

    wire: GenerateRequest
    outputs: Sequence[Output]  # with their formats; empty where a named task decides
    model: str
    started: float  # the request's time.perf_counter()
    picture_edit: Edit | None = None
    id: str = field(default_factory=new_id)
    sequence: int = 0
    text: str = ""
    num_samples: int = 0
    first_output_ms: float | None = None

    @property
    def wants(self) -> Wants:
        """What of the making is told. Words and sound of an edit are put into its target first, at the end."""
        every = self.wire.preview.every_steps if self._asks("image") else 0
        return Wants(progress=True, speech=self._asks("audio") and not self.wire.edits, preview_every=every)

    async def frames(self, events: AsyncGenerator[Event], media_slots: asyncio.Semaphore) -> AsyncGenerator[bytes]:
        """The whole stream, from `generation.created` to [DONE]; closing it closes `events`."""
        yield self._event("generation.created", id=self.id)
        async with aclosing(events):
            async for happened in events:
                if isinstance(happened, Finished):
                    async for frame in self._end(happened, media_slots):
                        yield frame
                elif isinstance(happened, Preview):
                    data = await asyncio.to_thread(self._preview, happened.image)
                    yield self._output("image.preview", step=happened.step, data=data)
                else:
                    for frame in self._made(happened):
                        yield frame
        yield DONE

    def _made(self, happened: Event) -> Iterator[bytes]:
        if isinstance(happened, Queued):
            yield self._event("generation.queued", position=happened.position, eta_ms=None)
        elif isinstance(happened, Progress):
            yield from self._progress(happened)
        elif isinstance(happened, Spoken):
            yield from self._audio(happened.samples, happened.sample_rate)

    async def _end(self, finished: Finished, media_slots: asyncio.Semaphore) -> AsyncGenerator[bytes]:
        for frame in self._rest(finished.generation):
            yield frame
        async with media_slots:
            body = await asyncio.to_thread(self._whole, finished)
        for part in body.output:
            if isinstance(part, ImageAnswer):
                yield self._output("image.done", **part.model_dump(exclude={"type"}))
        yield self._event("generation.completed", **as_json(body))

    def _progress(self, progress: Progress) -> Iterator[bytes]:
        step, preview = progress.step, self.wire.preview
        done = {"steps": progress.steps, "committed": progress.committed, "total": progress.total}
        yield self._event("generation.step", step=step, **done)
        if preview.every_steps:
            yield self._event("tokens.commit", step=step, **tokens_json(progress.commits, preview.confidence))
            if step % preview.every_steps == 0:
                yield self._event("tokens.guess", step=step, **tokens_json(progress.guesses, preview.confidence))
        if self._asks("text") and not self.wire.edits and progress.text is not None:
            yield from self._words(progress.text)

    def _rest(self, generation: Generation) -> Iterator[bytes]:
        """What of text and speech has not been said yet."""
        if generation.text is not None and self._asks("text"):
            yield from self._words(generation.text)
            yield self._event("text.done", text=generation.text)
        if generation.audio is not None and self._asks("audio"):
            samples, rate = generation.audio.samples, generation.audio.sample_rate
            yield from self._audio(samples[self.num_samples :], rate)
            duration_s = round(len(samples) / rate, 4)
            words = {"words": [word.model_dump() for word in timed_words(generation)]}
            words = words if "word_timestamps" in self.wire.extras else {}
            yield self._event("audio.done", duration_s=duration_s, transcript=generation.text, **words)

    def _whole(self, finished: Finished) -> GenerateAnswer:
        return whole_answer(
            finished,
            self.outputs,
            id=self.id,
            model=self.model,
            extras=self.wire.extras,
            started=self.started,
            first_output_ms=self.first_output_ms,
        )

    def _words(self, text: str) -> Iterator[bytes]:
        """`text` is all there is so far."""
        new = text[len(self.text) :]
        self.text = text
        if new:
            yield self._output("text.delta", text=new)

    def _audio(self, samples: NDArray[np.float32], rate: int) -> Iterator[bytes]:
        """At most a second an event."""
        for start in range(0, len(samples), rate):
            pcm = write_audio(AudioPart(samples[start : start + rate], rate), "pcm")
            yield self._output("audio.delta", audio=base64.b64encode(pcm).decode(), format="pcm", sample_rate=rate)
        self.num_samples += len(samples)

    def _preview(self, drawn: ImagePart) -> str:
        return self._picture(in_place(self.picture_edit, drawn))

    def _picture(self, image: ImagePart) -> str:
        format = next((output.format for output in self.outputs if output.type == "image"), None) or "png"
        return base64.b64encode(write_image(image, format)).decode()

    def _asks(self, modality: str) -> bool:
        return not self.outputs or any(output.type == modality for output in self.outputs)

    def _output(self, type: str, **data: Any) -> bytes:
        """An event that brings something of the answer itself."""
        if self.first_output_ms is None:
            self.first_output_ms = 1000 * (time.perf_counter() - self.started)
        return self._event(type, **data)

    def _event(self, type: str, **data: Any) -> bytes:
        frame = event({"type": type, "sequence": self.sequence} | data)
        self.sequence += 1
        return frame


def tokens_json(tokens: Tokens, confidence: bool) -> Mapping[str, Any]:
    """Canvas positions and what stands there."""
    told: dict[str, Any] = {"positions": tokens.positions, "ids": tokens.ids, "texts": tokens.texts}
    if confidence:
        told["confidence"] = [known_confidence(score) for score in tokens.confidence]
    return told


def known_confidence(score: float) -> float | None:
    """None where a token was given."""
    return None if math.isnan(score) else score
