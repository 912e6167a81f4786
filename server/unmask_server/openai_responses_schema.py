"""The wire types of `POST /v1/responses`."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from unmask_server.openai_dialogue import ChatMessage
from unmask_server.openai_wire import JsonSchema, Lenient, OpenAIRequest, TopLogprobs
from unmask_server.schema import MAX_MESSAGES, MAX_PARTS, Integer, Name, Text

NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {  # fields that would change the result, and what asks for nothing
    "background": (False,),
    "conversation": (),
    "moderation": (),
    "prompt": (),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}
LOGPROBS: Final = "message.output_text.logprobs"


def _message(item: Any) -> Any:
    kind = item.get("type", "message") if isinstance(item, dict) else "message"
    if kind != "message":
        raise ValueError(f"an item of type {str(kind)[:64]!r} is not supported here, only messages are")
    return item


def _as_items(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class TextFormat(JsonSchema):
    type: Literal["text", "json_object", "json_schema"] = "text"


class TextOptions(Lenient):
    format: TextFormat = TextFormat()


class ResponsesRequest(OpenAIRequest):
    input: Annotated[
        list[Annotated[ChatMessage, BeforeValidator(_message)]],
        BeforeValidator(_as_items, json_schema_input_type=str | list[ChatMessage]),
        Field(min_length=1, max_length=MAX_MESSAGES),
    ]
    instructions: Text | None = None
    max_output_tokens: Integer | None = None
    text: TextOptions = TextOptions()
    include: list[Name] = Field(default=[], max_length=MAX_PARTS)
    top_logprobs: TopLogprobs = 0
    metadata: dict[Name, Text] = Field(default={}, max_length=16)  # comes back
    previous_response_id: Name | None = None

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in self.include
