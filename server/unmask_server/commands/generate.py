"""`unmask generate`: one answer, in this process."""

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from unmask_engine.bundle import find_bundle
from unmask_engine.media import AudioFormat, ImageFormat, MediaLimits, read_audio, read_image, write_audio, write_image
from unmask_engine.request import (
    Algorithm,
    Decoding,
    Generation,
    GenerationRequest,
    Modality,
    Part,
    TextPart,
)
from unmask_server.commands.device import pick_device
from unmask_server.commands.exits import CommandError, UsageError

IMAGE_SUFFIXES: dict[str, ImageFormat] = {
    ".png": "png",
    ".webp": "webp",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
}
AUDIO_SUFFIXES: dict[str, AudioFormat] = {
    ".wav": "wav",
    ".flac": "flac",
    ".mp3": "mp3",
    ".opus": "opus",
    ".ogg": "opus",
    ".pcm": "pcm",
}
TEXT_SUFFIXES = (".txt", ".md")


def generate(
    prompt: str | None,
    *,
    audio: Path | None,
    image: Path | None,
    output: Path | None,
    model: str,
    device: str,
    task: str,
    instructions: str | None,
    as_json: bool,
    decoding: Mapping[str, Any],
) -> None:
    wanted = _wanted(output)
    if decoding["algorithm"] not in (None, *get_args(Algorithm)):
        raise UsageError(f"--algorithm {decoding['algorithm']}: it may be {', '.join(get_args(Algorithm))}")
    request = GenerationRequest(
        parts=_parts(prompt, audio, image),
        outputs=() if output is None and task != "auto" else wanted,
        task=task,
        instructions=instructions,
        decoding=Decoding(**decoding),
    )
    folder = find_bundle(model)
    from unmask_engine.engine import Engine  # torch, a second or two: after everything that can be refused without it

    with _progress() as on_step:
        engine = Engine.load(folder, pick_device(device))
        (generation,) = engine.generate([request], on_step=on_step)
    if output is not None:
        _write(generation, output)
    if as_json:
        print(json.dumps(_summary(generation, output)))
    elif generation.text is not None and (output is None or output.suffix.lower() not in TEXT_SUFFIXES):
        print(generation.text)
    if generation.truncated:
        print("unmask: the answer filled its canvas and may be cut off; try a larger --max-tokens", file=sys.stderr)


def _wanted(output: Path | None) -> tuple[Modality, ...]:
    suffix = output.suffix.lower() if output is not None else ".txt"
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"-o {output}: its folder does not exist")
    if output is not None and output.is_dir():
        raise UsageError(f"-o {output}: that is a folder; name a file")
    if suffix in TEXT_SUFFIXES:
        return ("text",)
    if suffix in IMAGE_SUFFIXES:
        return ("image",)
    if suffix in AUDIO_SUFFIXES:
        return ("audio",)
    known = ", ".join((*IMAGE_SUFFIXES, *AUDIO_SUFFIXES, *TEXT_SUFFIXES))
    raise UsageError(f"-o {output}: the suffix says what the answer is; it may be {known}")


def _parts(prompt: str | None, audio: Path | None, image: Path | None) -> tuple[Part, ...]:
    limits = MediaLimits()
    parts: list[Part] = [] if prompt is None else [TextPart(prompt)]
    if audio is not None:
        parts.append(read_audio(_read(audio, limits.max_bytes), limits, param="--audio"))
    if image is not None:
        parts.append(read_image(_read(image, limits.max_bytes), limits, param="--image"))
    if not parts:
        raise UsageError("nothing to answer: give a prompt, --audio or --image")
    return tuple(parts)


def _read(file: Path, max_bytes: int) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(max_bytes + 1)  # one more than allowed, so that what is too large is refused as such
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None


def _write(generation: Generation, output: Path) -> None:
    suffix = output.suffix.lower()
    data: bytes | None = None
    if suffix in IMAGE_SUFFIXES and generation.image is not None:
        data = write_image(generation.image, IMAGE_SUFFIXES[suffix])
    elif suffix in AUDIO_SUFFIXES and generation.audio is not None and len(generation.audio.samples):
        data = write_audio(generation.audio, AUDIO_SUFFIXES[suffix])
    elif suffix in TEXT_SUFFIXES and generation.text is not None:
        data = (generation.text + "\n").encode()
    if data is None:
        raise CommandError(f"the model's answer has nothing for {output}; try another --seed with --temperature 0.7")
    try:
        output.write_bytes(data)
    except OSError as error:
        raise CommandError(f"{output}: {error.strerror or error}") from None


def _summary(generation: Generation, output: Path | None) -> dict[str, Any]:
    usage, timings = generation.usage, generation.timings
    return {
        "task": generation.task,
        "text": generation.text,
        "output": None if output is None else str(output),
        "truncated": generation.truncated,
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "steps": usage.steps,
            "forward_passes": usage.forward_passes,
        },
        "timings": {
            "encode_ms": round(timings.encode_ms, 3),
            "decode_ms": round(timings.decode_ms, 3),
            "media_ms": round(timings.media_ms, 3),
        },
    }


def _progress() -> AbstractContextManager[Callable[[int, int, int], None] | None]:
    """A bar over the steps, on a terminal only."""
    return _Bar() if sys.stderr.isatty() else nullcontext()


class _Bar(AbstractContextManager[Callable[[int, int, int], None]]):
    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("loading", total=None)

    def __enter__(self) -> Callable[[int, int, int], None]:
        self._progress.start()
        return lambda _, step, steps: self._progress.update(
            self._task, description="unmasking", completed=step, total=steps
        )

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
