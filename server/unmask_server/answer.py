"""`Generation` -> the JSON answer, or the bare bytes of its one image or sound."""

import base64
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastapi.responses import Response

from unmask_engine.media import MP3_RATES, OPUS_RATES, AudioFormat, ImageFormat, write_audio, write_image
from unmask_engine.request import Generation, Modality, RequestError
from unmask_server.engine_client import Finished
from unmask_server.schema import (
    AudioAnswer,
    GenerateAnswer,
    ImageAnswer,
    Output,
    TextAnswer,
    TimingsAnswer,
    UsageAnswer,
    WordAnswer,
)

MODALITIES: tuple[Modality, ...] = ("text", "audio", "image")
MIME = {
    "png": "image/png",
    "webp": "image/webp",
    "jpeg": "image/jpeg",
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "pcm": "audio/pcm",
}
OPTIONAL = ("incomplete_reason", "timings", "tokens", "confidence", "words")  # fields of an answer
FORMAT_OF_MIME = {mime: name for name, mime in MIME.items()} | {"audio/x-wav": "wav", "audio/opus": "opus"}


@dataclass(frozen=True)
class Raw:
    """The caller's `Accept` asks for bare bytes of this modality; `format` where it names one."""

    modality: Literal["audio", "image"]
    format: str | None


def raw_wanted(accept: str) -> Raw | None:
    """Only a header that begins with image/ or audio/ counts: browsers list image types among others."""
    first = accept.partition(",")[0].partition(";")[0].strip().lower()
    for modality in ("audio", "image"):
        if first == f"{modality}/*":
            return Raw(modality, None)
        if first.startswith(f"{modality}/"):
            if first not in FORMAT_OF_MIME:
                known = ", ".join(mime for mime in MIME.values() if mime.startswith(modality))
                raise RequestError(f"Accept: {first} is not offered; there are: {known}.", param="accept")
            return Raw(modality, FORMAT_OF_MIME[first])
    return None


def with_formats(outputs: Sequence[Output], raw: Raw | None) -> list[Output]:
    """Fills in the formats; raises where `Accept` asks for bare bytes that these outputs cannot give."""
    if raw is not None and [output.type for output in outputs].count(raw.modality) != 1:
        raise RequestError(
            f"Accept: {raw.modality}/* needs exactly one {raw.modality} output in `output`.", param="accept"
        )
    defaults = {"text": None, "image": "png", "audio": "wav"}
    filled = []
    for output in outputs:
        asked = raw.format if raw is not None and raw.modality == output.type else None
        if asked is not None and output.format not in (None, asked):
            message = f"Accept asks for {asked}, `output` for {output.format}; name the format once."
            raise RequestError(message, param="accept")
        wanted = output.format or asked or defaults[output.type]
        filled.append(output if wanted == output.format else output.model_copy(update={"format": wanted}))
    return filled


def answer(
    finished: Finished,
    outputs: Sequence[Output],
    *,
    model: str,
    extras: Sequence[str],
    raw: Raw | None,
    started: float,
) -> Response:
    """Encodes the media (slow: call it in a worker thread). `started` is the request's `time.perf_counter()`."""
    body = whole_answer(finished, outputs, id=new_id(), model=model, extras=extras, started=started)
    if raw is None:
        return Response(body.model_dump_json(exclude=_left_out(body)), media_type="application/json")
    for part in body.output:
        if not isinstance(part, TextAnswer) and part.type == raw.modality:
            return Response(base64.b64decode(part.data), media_type=MIME[part.format])
    message = f"The model answered without {raw.modality}; ask for JSON to see what it answered."
    raise RequestError(message, param="accept", code="no_output")


def whole_answer(
    finished: Finished,
    outputs: Sequence[Output],
    *,
    id: str,
    model: str,
    extras: Sequence[str],
    started: float,
    first_output_ms: float | None = None,
) -> GenerateAnswer:
    """Slow, as `answer` is. `first_output_ms` where something of it has left already."""
    generation = finished.generation
    encoding = time.perf_counter()
    outputs = outputs or with_formats([Output(type=modality) for modality in MODALITIES], None)
    parts = [part for output in outputs if (part := _part(generation, output)) is not None]
    now = time.perf_counter()
    total_ms = 1000 * (now - started)
    timings = TimingsAnswer(
        queue_ms=round(finished.queue_ms, 3),
        encode_ms=round(generation.timings.encode_ms, 3),
        decode_ms=round(generation.timings.decode_ms, 3),
        media_ms=round(generation.timings.media_ms + 1000 * (now - encoding), 3),
        first_output_ms=round(total_ms if first_output_ms is None else first_output_ms, 3),
        total_ms=round(total_ms, 3),
    )
    return GenerateAnswer(
        id=id,
        created=int(time.time()),
        model=model,
        task=generation.task,
        status="incomplete" if generation.truncated else "completed",
        incomplete_reason="length" if generation.truncated else None,
        output=parts,
        usage=UsageAnswer(
            input_tokens={name: generation.usage.input_tokens.get(name, 0) for name in MODALITIES},
            output_tokens={name: generation.usage.output_tokens.get(name, 0) for name in MODALITIES},
            steps=generation.usage.steps,
            forward_passes=generation.usage.forward_passes,
        ),
        timings=timings if "timings" in extras else None,
        tokens=list(generation.token_ids) if "tokens" in extras else None,
        confidence=list(generation.confidence) if "confidence" in extras else None,
        words=timed_words(generation) if "word_timestamps" in extras else None,
    )


def as_json(body: GenerateAnswer) -> dict[str, Any]:
    """The answer's JSON values; what was not asked for is left out."""
    return body.model_dump(mode="json", exclude=_left_out(body))


def _left_out(body: GenerateAnswer) -> set[str]:
    return {name for name in OPTIONAL if getattr(body, name) is None}


def timed_words(generation: Generation) -> list[WordAnswer]:
    return [WordAnswer(word=word.text, start=word.start, end=word.end) for word in generation.words]


def new_id() -> str:
    return f"gen_{uuid.uuid4().hex}"


def _part(generation: Generation, output: Output) -> TextAnswer | AudioAnswer | ImageAnswer | None:
    if output.type == "text" and generation.text is not None:
        return TextAnswer(text=generation.text, truncated=generation.truncated)
    if output.type == "image" and generation.image is not None:
        height, width = generation.image.pixels.shape[:2]
        image_format: ImageFormat = output.format  # type: ignore[assignment]  # the schema matched it to the type
        text = base64.b64encode(write_image(generation.image, image_format)).decode()
        return ImageAnswer(format=image_format, width=width, height=height, data=text)
    if output.type == "audio" and generation.audio is not None:
        audio_format: AudioFormat = output.format  # type: ignore[assignment]
        audio = generation.audio
        data = write_audio(audio, audio_format)
        return AudioAnswer(
            format=audio_format,
            sample_rate=_written_rate(audio_format, audio.sample_rate),
            duration_s=round(len(audio.samples) / audio.sample_rate, 4),
            data=base64.b64encode(data).decode(),
            transcript=generation.text,
        )
    return None


def _written_rate(format: AudioFormat, rate: int) -> int:
    """The rate of the file: `write_audio` resamples where the format does not know the sound's own."""
    if format == "opus":
        return rate if rate in OPUS_RATES else 48_000
    return 44_100 if format == "mp3" and rate not in MP3_RATES else rate
