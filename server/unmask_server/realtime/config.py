"""The session object: what a client may ask for, merged deeply, and what is in effect, echoed whole."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from unmask_engine.request import RequestError
from unmask_server.errors import invalid
from unmask_server.openai_voices import check_voice
from unmask_server.realtime.audio import FORMATS, PCM_RATE, WireFormat
from unmask_server.realtime.events import JsonObject
from unmask_server.realtime.vad import Patience

T = TypeVar("T", bound=BaseModel)
CLEARED_BY_NULL: Final = ("turn_detection", "transcription", "noise_reduction")  # elsewhere null is the default
# How soon a silence ends a turn, at the least and at the most; the latter are OpenAI's.
EAGERNESS_MS: Final = {"low": (900, 8000), "medium": (600, 4000), "auto": (600, 4000), "high": (400, 2000)}


Short = Annotated[str, Field(max_length=200)]
Instructions = Annotated[str, Field(max_length=200_000)]


class Wire(BaseModel):
    """Unknown fields are ignored, as clients are ahead of any server."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class Pcm(Wire):
    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000] = PCM_RATE


class G711(Wire):
    type: Literal["audio/pcmu", "audio/pcma"]


Format = Annotated[Pcm | G711, Field(discriminator="type")]


class ServerVad(Wire):
    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(default=0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(default=300, ge=0, le=5000)
    silence_duration_ms: int = Field(default=500, ge=100, le=10_000)
    # Of silence after an answer, until the model speaks up by itself.
    idle_timeout_ms: int | None = Field(default=None, ge=1000, le=60_000)
    create_response: bool = True
    interrupt_response: bool = True

    def patience(self) -> Patience:
        return Patience(self.silence_duration_ms, self.silence_duration_ms)


class SemanticVad(Wire):
    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True

    def patience(self) -> Patience:
        return Patience(*EAGERNESS_MS[self.eagerness])


def _name(value: Any) -> Any:
    return value.get("id") if isinstance(value, dict) else value


def _typed(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class Transcription(Wire):
    """Clients name models of OpenAI's; the one here hears for itself, and in any language it knows."""

    model: Short = "default"
    language: Short | None = None
    prompt: Instructions | None = None


class NoiseReduction(Wire):
    """Taken in, as clients send it unasked; the model hears what is sent."""

    type: Literal["near_field", "far_field"] = "near_field"


class Input(Wire):
    format: Format = Pcm()
    transcription: Transcription | None = None
    noise_reduction: NoiseReduction | None = None
    turn_detection: Annotated[ServerVad | SemanticVad, Field(discriminator="type")] | None = ServerVad()

    @property
    def wire_format(self) -> WireFormat:
        return FORMATS[self.format.type]


class Output(Wire):
    format: Format = Pcm()
    voice: Annotated[Short, BeforeValidator(_name)] = "marin"
    speed: float = Field(default=1.0, ge=1.0, le=1.0)  # the model speaks at its own

    @property
    def wire_format(self) -> WireFormat:
        return FORMATS[self.format.type]


class Audio(Wire):
    input: Input = Input()
    output: Output = Output()


Modalities = Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=2)]
MaxTokens = Annotated[int, Field(ge=1, le=4096)] | Literal["inf"]
Metadata = Annotated[  # bounded as by OpenAI
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class Unmask(Wire):
    """What only this server has: the making of a text, beside its deltas (unmasking.py)."""

    model_config = ConfigDict(extra="forbid")

    every_steps: int = Field(default=0, ge=0, le=1000)  # 0: what stands on the canvas is not told
    confidence: bool = False
    word_times: bool = False  # when each word is said


class TokenLimits(Wire):
    post_instructions: int | None = Field(default=None, ge=0)


class Truncation(Wire):
    """A dialogue that has grown too long is cut to the ratio, so that it is not cut again at each turn."""

    type: Literal["auto", "disabled", "retention_ratio"] = "auto"
    retention_ratio: float = Field(default=1.0, ge=0, le=1)
    token_limits: TokenLimits | None = None

    def echo(self) -> str | JsonObject:
        return self.model_dump(exclude_none=True) if self.type == "retention_ratio" else self.type


class Session(Wire):
    type: Literal["realtime", "transcription"] = "realtime"
    output_modalities: Modalities = ["audio"]  # pydantic copies it
    instructions: Instructions = ""
    max_output_tokens: MaxTokens = "inf"
    truncation: Annotated[Truncation, BeforeValidator(_typed)] = Truncation()
    audio: Audio = Audio()
    x_unmask: Unmask = Unmask()

    @property
    def transcribes(self) -> bool:
        return self.type == "transcription" or self.audio.input.transcription is not None

    def updated(self, change: object) -> "Session":
        """Deeply merged; raises RequestError and leaves everything as it was."""
        if not isinstance(change, dict):
            raise RequestError("session must be an object.", param="session", code="invalid_value")
        session = parsed(Session, merged(self.model_dump(), change), "session")
        check_voice(session.audio.output.voice, "session.audio.output.voice")
        return session

    def echo(self, session_id: str, model: str, expires_at: int) -> JsonObject:
        heard = self.audio.input.model_dump()
        if self.transcribes:
            transcription = self.audio.input.transcription or Transcription()
            heard["transcription"] = transcription.model_dump(exclude_none=True)
        common: JsonObject = {"type": self.type, "id": session_id, "expires_at": expires_at, "include": None}
        if self.x_unmask != Unmask():
            common["x_unmask"] = self.x_unmask.model_dump()
        if self.type == "transcription":
            return {**common, "object": "realtime.transcription_session", "audio": {"input": heard}}
        return {
            **common,
            "object": "realtime.session",
            "model": model,
            "output_modalities": self.output_modalities,
            "instructions": self.instructions,
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": self.max_output_tokens,
            "tracing": None,
            "truncation": self.truncation.echo(),
            "prompt": None,
            "audio": {"input": heard, "output": self.audio.output.model_dump()},
        }


class ResponseAudio(Wire):
    output: dict[str, JsonValue] = {}


class ResponseOptions(Wire):
    """What `response.create` may ask for, for one response."""

    conversation: Literal["auto", "none"] = "auto"
    instructions: Instructions | None = None
    output_modalities: Modalities | None = None
    max_output_tokens: MaxTokens | None = None
    audio: ResponseAudio | None = None
    metadata: Metadata | None = None
    input: Annotated[list[dict[str, JsonValue]], Field(max_length=512)] | None = None

    def over(self, session: Session) -> Session:
        """The session as it is for this response."""
        change: JsonObject = self.model_dump(
            include={"instructions", "output_modalities", "max_output_tokens"}, exclude_none=True
        )
        if self.audio is not None:
            change["audio"] = {"output": self.audio.output}
        return session.updated(change)


def merged(old: Mapping[str, Any], change: Mapping[str, Any]) -> JsonObject:
    result = dict(old)
    for name, value in change.items():
        before = result.get(name)
        if value is None and name not in CLEARED_BY_NULL:
            result.pop(name, None)
        elif isinstance(value, dict) and isinstance(before, dict) and value.get("type") in (None, before.get("type")):
            result[name] = merged(before, value)
        elif isinstance(value, dict):  # of another type: nothing of the old one stays
            result[name] = merged({}, value)
        else:
            result[name] = value
    return result


def refuse_tools(asked: Mapping[str, Any], where: str) -> None:
    if asked.get("tools"):
        message = "This model calls no functions; leave `tools` out or empty."
        raise RequestError(message, param=f"{where}.tools", code="tools_not_supported")


def parsed(model: type[T], value: object, where: str) -> T:
    """Nulls are defaults; raises RequestError."""
    if not isinstance(value, dict):
        raise RequestError(f"{where} must be an object.", param=where, code="invalid_value")
    refuse_tools(value, where)
    try:
        return model.model_validate(merged({}, value))
    except ValidationError as error:
        raise _named(error, where) from None


def _named(error: ValidationError, where: str) -> RequestError:
    plain = invalid(error)
    return RequestError(f"{where}.{plain.message}", param=f"{where}.{plain.param}", code=plain.code)
