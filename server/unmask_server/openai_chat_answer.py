"""`Generation` -> a chat completion: the message, why it ended, and what it took."""

import base64
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Final

from unmask_engine.audio_stream import AudioWriter
from unmask_engine.media import write_audio, write_image
from unmask_engine.request import AudioPart, Generation, ImagePart, Modality
from unmask_server.openai_text import logprobs, stopped

AUDIO_LIVES_S: Final = 3600  # how long a later turn may name a spoken answer by its id


@dataclass(frozen=True)
class Reply:
    """What stays the same over an answer: its names, and how it is to be told."""

    model: str
    modalities: frozenset[Modality]
    audio_format: str
    stops: tuple[str, ...] = ()
    top_logprobs: int | None = None  # None: no logprobs
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    audio_id: str = field(default_factory=lambda: f"audio_{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def expires_at(self) -> int:
        return self.created + AUDIO_LIVES_S

    def logprobs(self, generation: Generation) -> dict[str, Any] | None:
        if self.top_logprobs is None:
            return None
        text = stopped(generation.text or "", self.stops)
        return {"content": list(logprobs(generation.text_tokens, text, self.top_logprobs)), "refusal": None}


def completion(reply: Reply, generation: Generation) -> dict[str, Any]:
    """Encodes the media: slow."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    if "audio" in reply.modalities and generation.audio is not None:
        data = base64.b64encode(_encoded(generation.audio, reply.audio_format)).decode()
        transcript = generation.text or ""
        message["audio"] = {
            "id": reply.audio_id,
            "data": data,
            "expires_at": reply.expires_at,
            "transcript": transcript,
        }
    elif "text" in reply.modalities:
        message["content"] = stopped(generation.text or "", reply.stops)
    if "image" in reply.modalities and generation.image is not None:
        message["images"] = [image_url(generation.image)]
    choice = {
        "index": 0,
        "finish_reason": finish_reason(generation),
        "logprobs": reply.logprobs(generation),
        "message": message,
    }
    return {
        "id": reply.id,
        "object": "chat.completion",
        "created": reply.created,
        "model": reply.model,
        "choices": [choice],
        "usage": usage(generation),
    }


def finish_reason(generation: Generation) -> str:
    return "length" if generation.truncated else "stop"


def image_url(image: ImagePart) -> dict[str, Any]:
    """OpenAI has no shape for a picture in a message; this is OpenRouter's. Slow."""
    data = base64.b64encode(write_image(image, "png")).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def usage(generation: Generation) -> dict[str, Any]:
    given, made = generation.usage.input_tokens, generation.usage.output_tokens
    num_given, num_made = sum(given.values()), sum(made.values())
    return {
        "prompt_tokens": num_given,
        "completion_tokens": num_made,
        "total_tokens": num_given + num_made,
        "prompt_tokens_details": {"cached_tokens": 0} | _details(given),
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        }
        | _details(made),
        "steps": generation.usage.steps,  # not OpenAI's: what `steps`, or a deadline, came to
    }


def _details(tokens: dict[Modality, int]) -> dict[str, int]:
    names: tuple[Modality, ...] = ("text", "audio", "image")
    return {f"{name}_tokens": tokens.get(name, 0) for name in names}


def _encoded(audio: AudioPart, format: str) -> bytes:
    if format != "pcm16":
        return write_audio(audio, format)
    writer = AudioWriter("pcm")
    return writer.write(audio) + writer.close()
