"""The wire types of the native API: strict, and the one place where they are written down."""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from unmask_engine.media import AudioFormat, ImageFormat
from unmask_engine.request import Algorithm, Modality


class Strict(BaseModel):
    """Refuses unknown fields: ignoring them could change the result."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


MAX_PARTS = 64  # entries of a list; a body of the allowed size could hold a million, seconds of work for the event loop
MAX_MESSAGES = 1000  # of a dialogue

Name = Annotated[str, Field(max_length=200)]
# What no prompt can hold, refused before it is tokenised.
Text = Annotated[str, Field(max_length=200_000)]
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # ranges are the engine's business


class Part(Strict):
    """A piece of input. Media comes as `data` (base64 or a data: URL) or as `file`, the name of a multipart field."""

    can_be_whole: ClassVar[bool] = False

    type: Modality
    text: Text | None = None
    data: str | None = None
    file: Name | None = None

    @model_validator(mode="after")
    def _one_content(self) -> "Part":
        allowed = ("text",) if self.type == "text" else ("data", "file")
        given = [name for name in ("text", "data", "file") if getattr(self, name) is not None]
        if self.can_be_whole and self.type != "text" and not given:
            return self
        if len(given) != 1 or given[0] not in allowed:
            raise ValueError(f"{self.type} input takes exactly one of: {', '.join(allowed)}")
        return self


class Output(Strict):
    type: Modality
    format: ImageFormat | AudioFormat | None = None
    voice: Literal["default"] | None = None

    @model_validator(mode="after")
    def _fitting_format(self) -> "Output":
        formats = {"image": get_args(ImageFormat), "audio": get_args(AudioFormat), "text": ()}[self.type]
        if self.format is not None and self.format not in formats:
            raise ValueError(
                f"{self.type} output takes no format {self.format!r}; it takes: {', '.join(formats) or 'none'}"
            )
        if self.voice is not None and self.type != "audio":
            raise ValueError("voice belongs to audio output")
        return self


class DecodingOptions(Strict):
    """What overrides the preset; null keeps the preset's value. docs/api.md has units and ranges."""

    steps: Integer | None = None
    max_tokens: Integer | None = None
    block_size: Integer | None = None
    algorithm: Algorithm | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: Integer | None = None
    algorithm_temperature: float | None = None
    repetition_penalty: float | None = None
    position_penalty: float | None = None
    guidance: float | None = None
    seed: Integer | None = None
    deadline_ms: float | None = None
    constrain: bool = True
    reference_compat: bool = False


class Preview(Strict):
    every_steps: int = Field(default=0, ge=0)
    confidence: bool = False


def _as_parts(value: Any) -> Any:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list):
        raise ValueError("give a string or a list of parts")
    return _bounded(value)


def _as_outputs(value: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError('give a list, such as ["text", "audio"]')
    return [{"type": item} if isinstance(item, str) else item for item in _bounded(value)]


def _bounded(value: Any, limit: int = MAX_PARTS) -> Any:
    if isinstance(value, list) and len(value) > limit:
        raise ValueError(f"at most {limit} entries are allowed, not {len(value):,}")
    return value


def _bounded_messages(value: Any) -> Any:
    return _bounded(value, MAX_MESSAGES)


Parts = Annotated[list[Part], BeforeValidator(_as_parts, json_schema_input_type=str | list[Part])]
Outputs = Annotated[list[Output], BeforeValidator(_as_outputs, json_schema_input_type=list[Output | Modality])]


class Message(Strict):
    role: Literal["system", "user", "assistant"]
    content: Parts


def _as_image(value: Any) -> Any:
    if isinstance(value, str):
        value = {"data": value}
    return {"type": "image"} | value if isinstance(value, dict) else value


class EditSpan(Strict):
    """What of the target is to be said anew, from `start` to `end` in seconds or as `words` of its transcript.

    `text` is what is to be heard there, a part of the input.
    """

    start: float | None = None
    end: float | None = None
    words: Text | None = None
    text: Text | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "EditSpan":
        given = [name for name in ("start", "end", "words") if getattr(self, name) is not None]
        if given not in (["start", "end"], ["words"]):
            raise ValueError("a span takes `start` and `end`, or `words`")
        return self


class Target(Part):
    """What is edited. In a list of edits, an image or audio without content is made whole."""

    can_be_whole: ClassVar[bool] = True

    @property
    def is_whole(self) -> bool:
        """Nothing of it is given."""
        return self.text is None and self.data is None and self.file is None


class EditOptions(Strict):
    """What is made anew of `target`: the mask's transparent pixels, the spans, or the holes `[MASK:n]` in its text."""

    target: Target
    mask: Annotated[Part, BeforeValidator(_as_image, json_schema_input_type=str | Part)] | None = None
    spans: Annotated[list[EditSpan], BeforeValidator(_bounded)] = []
    transcript: Text | None = None

    @model_validator(mode="after")
    def _mask_is_an_image(self) -> "EditOptions":
        if self.mask is not None and self.mask.type != "image":
            raise ValueError("the mask is an image with transparency")
        if self.target.is_whole and (self.mask is not None or self.spans):
            raise ValueError("a target without content is made whole; leave mask and spans out")
        return self


UNION_BRANCHES = ("[one]", "[several]")  # stand in the places of pydantic's errors, and are no fields
Edits = Annotated[
    Annotated[EditOptions, Tag("[one]")]
    | Annotated[list[EditOptions], BeforeValidator(_bounded), Field(min_length=1), Tag("[several]")],
    Discriminator(lambda value: UNION_BRANCHES[isinstance(value, list)]),
]


class GenerateRequest(BaseModel):
    """The body of `POST /v1/generate`. Unknown top-level fields are kept in `model_extra`, to be warned about."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)

    model: Name | None = None
    task: Name = "auto"
    instructions: Text | None = None
    input: Parts | None = None
    messages: Annotated[list[Message], BeforeValidator(_bounded_messages)] | None = None
    output: Outputs | None = None
    decoding: DecodingOptions = DecodingOptions()
    edit: Edits | None = None
    stream: bool = False
    preview: Preview = Preview()
    extras: tuple[Literal["timings", "confidence", "word_timestamps", "tokens"], ...] = Field(
        default=("timings",), alias="return", max_length=MAX_PARTS
    )

    @property
    def file_names(self) -> frozenset[str]:
        """The multipart fields that the parts name."""
        return frozenset(part.file for part in self.parts if part.file is not None)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Of the input, the dialogue and the edit."""
        said = (part for message in self.messages or () for part in message.content)
        edited = (part for edit in self.edits for part in (edit.target, edit.mask) if part is not None)
        return (*(self.input or ()), *said, *edited)

    @property
    def edits(self) -> tuple[EditOptions, ...]:
        """One or several."""
        if self.edit is None:
            return ()
        return tuple(self.edit) if isinstance(self.edit, list) else (self.edit,)

    @property
    def unknown_fields(self) -> tuple[str, ...]:
        return tuple(self.model_extra or ())


class TextAnswer(BaseModel):
    type: Literal["text"] = "text"
    text: str
    truncated: bool


class AudioAnswer(BaseModel):
    type: Literal["audio"] = "audio"
    format: AudioFormat
    sample_rate: int
    duration_s: float
    data: str
    transcript: str | None


class ImageAnswer(BaseModel):
    type: Literal["image"] = "image"
    format: ImageFormat
    width: int
    height: int
    data: str


class WordAnswer(BaseModel):
    word: str
    start: float
    end: float


class UsageAnswer(BaseModel):
    input_tokens: dict[Modality, int]
    output_tokens: dict[Modality, int]
    steps: int
    forward_passes: int


class TimingsAnswer(BaseModel):
    queue_ms: float
    encode_ms: float
    decode_ms: float
    media_ms: float
    first_output_ms: float
    total_ms: float


class GenerateAnswer(BaseModel):
    id: str
    object: Literal["generation"] = "generation"
    created: int
    model: str
    task: str
    status: Literal["completed", "incomplete"]
    incomplete_reason: Literal["length"] | None = None
    output: list[TextAnswer | AudioAnswer | ImageAnswer]
    usage: UsageAnswer
    timings: TimingsAnswer | None = None
    tokens: list[int] | None = None
    confidence: list[float | None] | None = None
    words: list[WordAnswer] | None = None


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    error: ErrorBody


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "unmask"
    tasks: list[str]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]
