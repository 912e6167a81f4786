"""What the OpenAI endpoints have in common: lenient types, the native knobs as extra fields, and what is refused."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, field_validator, model_validator

from unmask_engine.request import MAX_CANVAS_TOKENS, Decoding, RequestError
from unmask_server.schema import DecodingOptions, Integer, Name, Preview

MAX_STOPS: Final = 4


class Lenient(BaseModel):
    """Keeps unknown fields aside and takes null for a field that is left out, as official clients send them."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class StreamOptions(Lenient):
    include_usage: bool = False


class JsonSchema(Lenient):
    """`strict` or not, the answer fits the schema."""

    json_schema: dict[str, JsonValue] | None = Field(default=None, alias="schema")


class OpenAIRequest(Lenient, DecodingOptions):
    """The native knobs stand beside the fields of OpenAI: the client's `extra_body`."""

    model_config = Lenient.model_config

    model: Name | None = None
    task: Name = "auto"
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    preview: Preview = Preview()  # of /v1/generate too; it changes what a stream holds, so it is not ignored

    @field_validator("preview")
    @classmethod
    def _has_previews(cls, preview: Preview) -> Preview:
        if preview != Preview():
            raise ValueError("previews come with the streams of /v1/generate and of /v1/images; leave it out")
        return preview

    def decoding(self, max_tokens: int | None) -> Decoding:
        """`max_tokens` is an upper bound here, so one that is longer than any canvas is no mistake."""
        knobs = {name: getattr(self, name) for name in DecodingOptions.model_fields}
        bound = None if max_tokens is None else min(max_tokens, MAX_CANVAS_TOKENS)
        return Decoding(**knobs | {"max_tokens": bound})


Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200)]],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value, json_schema_input_type=str | list[str]),
    Field(max_length=MAX_STOPS),
]
TopLogprobs = Annotated[Integer, Field(ge=0, le=1)]  # what else a position might have held is not kept


def refuse(wire: Lenient, neutral: Mapping[str, Sequence[Any]]) -> None:
    """Raises for a field that would change the result and cannot be honoured, unless its value asks for nothing."""
    for name, values in neutral.items():
        value = (wire.model_extra or {}).get(name)
        if value is not None and value not in values:
            raise RequestError(f"{name} is not supported here; leave it out.", param=name, code="not_supported")


@contextlib.contextmanager
def naming(names: Mapping[str, str]) -> Iterator[None]:
    """What the engine refuses is told by this endpoint's names of the fields."""
    try:
        yield
    except RequestError as error:
        param = error.param.removeprefix("decoding.") if error.param else None
        raise RequestError(error.message, param=names.get(param or "", param), code=error.code) from None


def check_logprobs(wire: OpenAIRequest, asked: bool) -> None:
    if asked and wire.algorithm in ("topk_margin", "origin"):
        message = f"The confidence of algorithm {wire.algorithm} is no probability; leave one of the two out."
        raise RequestError(message, param="logprobs", code="not_supported")
