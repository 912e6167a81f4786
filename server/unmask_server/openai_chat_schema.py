"""The wire types of `POST /v1/chat/completions`."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from unmask_engine.request import Modality
from unmask_server.openai_dialogue import Messages
from unmask_server.openai_wire import JsonSchema, Lenient, OpenAIRequest, Stops, TopLogprobs
from unmask_server.schema import Integer, Name

NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {  # fields that would change the result, and what asks for nothing
    "n": (1,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "web_search_options": (),
    "moderation": (),
}


class AudioOptions(Lenient):
    voice: Annotated[Name, BeforeValidator(lambda value: value.get("id") if isinstance(value, dict) else value)] = (
        "default"
    )
    format: Literal["wav", "mp3", "flac", "opus", "pcm16"] | None = None


class ResponseFormat(Lenient):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema = JsonSchema()


class ChatRequest(OpenAIRequest):
    messages: Messages
    modalities: list[Modality] = Field(default=["text"], min_length=1, max_length=3)
    audio: AudioOptions = AudioOptions()
    max_completion_tokens: Integer | None = None
    stop: Stops = Field(default=[])
    logprobs: bool = False
    top_logprobs: TopLogprobs = 0
    response_format: ResponseFormat = ResponseFormat(type="text")

    @property
    def outputs(self) -> tuple[Modality, ...]:
        """OpenRouter's clients ask for image and text and take either; here a picture comes without words."""
        asked = dict.fromkeys(self.modalities)
        if "image" in asked:
            asked.pop("text", None)
        return tuple(asked)
