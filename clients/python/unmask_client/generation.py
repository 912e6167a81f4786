"""`POST /v1/generate`: its body out of Python values, its answer into them. Knows nothing of connections."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar

from unmask_client.errors import UnmaskError
from unmask_client.media import Audio, AudioLike, Image, ImageLike

T = TypeVar("T")
E = TypeVar("E", str, Image, Audio)
Part: TypeAlias = str | Image | Audio
Input: TypeAlias = Part | Sequence[Part]
Message: TypeAlias = Mapping[str, Any]  # {"role": "user", "content": Input}
Output: TypeAlias = str | Mapping[str, Any]  # "image" or {"type": "image", "format": "webp"}


class Decoding(TypedDict, total=False):
    """What overrides the preset; docs/api.md has units and ranges."""

    steps: int
    max_tokens: int
    block_size: int
    algorithm: str
    temperature: float
    top_p: float
    top_k: int
    algorithm_temperature: float
    repetition_penalty: float
    position_penalty: float
    guidance: float
    seed: int
    deadline_ms: float
    constrain: bool
    reference_compat: bool


@dataclass(frozen=True)
class Span:
    """What of a recording is to be said anew: from `start` to `end`, in seconds, or `words` of its transcript.

    `text` is what is to be heard there.
    """

    start: float | None = None
    end: float | None = None
    text: str | None = None
    words: str | None = None


@dataclass(frozen=True)
class Edit:
    """Something with a part of it to be made anew: what `mask` uncovers of a picture, `spans` of a recording, the holes
    [MASK:n] of a text. The class Image or Audio in place of a target is one that is to be made whole, to go with the
    others."""

    target: Part | type[Image] | type[Audio]
    mask: ImageLike | None = None
    spans: Sequence[Span] = ()
    transcript: str | None = None


@dataclass(frozen=True)
class Word:
    """When a word is said, in seconds."""

    word: str
    start: float
    end: float


@dataclass(frozen=True)
class Generation:
    """An answer. `raw` is the JSON of the server, with `usage`, `timings` and whatever `extras` asked for.

    `words` come where `extras` has `word_timestamps`.
    """

    id: str
    model: str
    task: str
    status: str
    incomplete_reason: str | None
    output: tuple[Part, ...]
    raw: Mapping[str, Any] = field(repr=False)
    words: tuple[Word, ...] = ()

    @property
    def text(self) -> str:
        return self.first(str)

    @property
    def image(self) -> Image:
        return self.first(Image)

    @property
    def audio(self) -> Audio:
        return self.first(Audio)

    def first(self, kind: type[T]) -> T:
        found = next((part for part in self.output if isinstance(part, kind)), None)
        if found is None:
            raise UnmaskError(f"the answer has no {kind.__name__}; `output` says what to ask for")
        return found

    def _repr_html_(self) -> str:
        """All of it, one part after another."""
        return "".join(f"<p>{escape(part)}</p>" if isinstance(part, str) else part.html for part in self.output)


@dataclass(frozen=True)
class Call(Generic[T]):
    """A body to send, and what the caller wants of the answer."""

    body: Mapping[str, Any]
    result: Callable[[Generation], T]


def generate(
    input: Input | None,
    *,
    messages: Sequence[Message] | None = None,
    output: Sequence[Output] | None = None,
    task: str | None = None,
    instructions: str | None = None,
    model: str | None = None,
    edits: Sequence[Edit] = (),
    preview: Mapping[str, Any] | None = None,
    extras: Sequence[str] | None = None,
    decoding: Decoding | None = None,
) -> Call[Generation]:
    wired = [_edit(edit) for edit in edits]
    fields = {
        "input": None if input is None else _parts(input),
        "messages": messages and [{**message, "content": _parts(message["content"])} for message in messages],
        "output": output and list(output),
        "task": task,
        "instructions": instructions,
        "model": model,
        "edit": wired[0] if len(wired) == 1 else wired or None,
        "preview": preview,
        "return": extras and list(extras),
        "decoding": dict(decoding or {}) or None,
    }
    return Call({name: value for name, value in fields.items() if value is not None}, lambda answer: answer)


def transcribe(audio: AudioLike, decoding: Decoding) -> Call[str]:
    call = generate(Audio.of(audio), output=["text"], decoding=decoding)
    return Call(call.body, lambda answer: answer.text)


def speak(text: str, format: str, voice: str, decoding: Decoding) -> Call[Audio]:
    call = generate(text, output=[{"type": "audio", "format": format, "voice": voice}], decoding=decoding)
    return Call(call.body, lambda answer: answer.audio)


def draw(prompt: str | Audio, format: str, decoding: Decoding) -> Call[Image]:
    call = generate(prompt, output=[{"type": "image", "format": format}], decoding=decoding)
    return Call(call.body, lambda answer: answer.image)


def ask(question: str | Audio, image: ImageLike | None, decoding: Decoding) -> Call[str]:
    # A lone recording with text as the only output would be transcribed instead of answered.
    output = ["text", "audio"] if isinstance(question, Audio) and image is None else ["text"]
    parts = [question] if image is None else [question, Image.of(image)]
    return Call(generate(parts, output=output, decoding=decoding).body, lambda answer: answer.text)


def chat(messages: Sequence[Message], decoding: Decoding) -> Call[str]:
    call = generate(None, messages=messages, output=["text"], decoding=decoding)
    return Call(call.body, lambda answer: answer.text)


def edit(
    target: E,
    input: Input,
    mask: ImageLike | None,
    spans: Sequence[Span],
    transcript: str | None,
    decoding: Decoding,
) -> Call[E]:
    edits = [Edit(target, mask, spans, transcript)]
    call = generate(input, output=[_part(target)["type"]], edits=edits, decoding=decoding)
    return Call(call.body, lambda answer: answer.first(type(target)))


def read_generation(body: Mapping[str, Any]) -> Generation:
    return Generation(
        id=body["id"],
        model=body["model"],
        task=body["task"],
        status=body["status"],
        incomplete_reason=body.get("incomplete_reason"),
        output=tuple(_read_part(part) for part in body["output"]),
        raw=body,
        words=read_words(body),
    )


def read_words(body: Mapping[str, Any]) -> tuple[Word, ...]:
    return tuple(Word(word["word"], word["start"], word["end"]) for word in body.get("words", ()))


def _read_part(part: Mapping[str, Any]) -> Part:
    if part["type"] == "text":
        return str(part["text"])
    data = base64.b64decode(part["data"])
    if part["type"] == "image":
        return Image(data)
    return Audio(data, part["format"], part["sample_rate"], part["duration_s"], part.get("transcript"))


def _edit(edit: Edit) -> dict[str, Any]:
    if isinstance(edit.target, type):
        return {"target": {"type": "image" if issubclass(edit.target, Image) else "audio"}}
    wired: dict[str, Any] = {"target": _part(edit.target)}
    if edit.mask is not None:
        wired["mask"] = _base64(Image.mask(edit.mask).data)
    if edit.spans:
        given = [asdict(span) for span in edit.spans]
        wired["spans"] = [{name: value for name, value in span.items() if value is not None} for span in given]
    if edit.transcript is not None:
        wired["transcript"] = edit.transcript
    return wired


def _parts(content: Input) -> list[dict[str, str]]:
    parts = [content] if isinstance(content, str | Image | Audio) else content
    return [_part(part) for part in parts]


def _part(part: Part) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Image):
        return {"type": "image", "data": _base64(part.data)}
    return {"type": "audio", "data": _base64(part.file())}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
