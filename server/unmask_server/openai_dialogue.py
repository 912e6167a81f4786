"""OpenAI's messages -> the last turn with its media, the turns before it as text, and the instructions."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

from pydantic import Field, JsonValue

from unmask_engine.request import Part, RequestError, TextPart, Turn
from unmask_server.body import Media
from unmask_server.dialogue import Dialogue, check_last_role, check_room
from unmask_server.openai_parts import TEXT, Content, read_part
from unmask_server.openai_wire import Lenient
from unmask_server.schema import MAX_MESSAGES, Name, Text

SYSTEM: Final = ("system", "developer")
DRAWN: Final = "[image]"  # stands for a picture of the assistant's in the dialogue so far


class SpokenReply(Lenient):
    id: Name | None = None
    transcript: Text | None = None


class ChatMessage(Lenient):
    role: Literal["system", "developer", "user", "assistant"]
    content: Content = Field(default=[])
    audio: SpokenReply | None = None  # of an assistant's earlier answer
    images: list[JsonValue] = Field(default=[])  # likewise
    tool_calls: list[JsonValue] = Field(default=[])

    @property
    def urls(self) -> tuple[str | None, ...]:
        """Where media may stand elsewhere."""
        return tuple(url.url for part in self.content for url in (part.image_url, part.audio_url) if url is not None)


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]


def read_dialogue(
    messages: Sequence[ChatMessage], param: str, media: Media, transcripts: Mapping[str, str]
) -> Dialogue:
    """Decodes the media (slow). `transcripts` are those of spoken answers by their id."""
    start = next((i for i, message in enumerate(messages) if message.role not in SYSTEM), len(messages) - 1)
    last = len(messages) - 1
    check_last_role(messages[last].role, f"{param}[{last}]")
    instructions = [_text_of(message, f"{param}[{i}]", transcripts) for i, message in enumerate(messages[:start])]
    turns = [
        Turn("system" if message.role == "developer" else message.role, text)
        for i, message in enumerate(messages[start:last], start)
        if (text := _text_of(message, f"{param}[{i}]", transcripts))
    ]
    parts: list[Part] = []
    for i, turn in enumerate(messages[start:], start):
        for j, part in enumerate(turn.content):
            if i == last or part.type not in TEXT:
                where = f"{param}[{i}].content[{j}]"
                read = read_part(part, where, media)
                check_room(read, parts, where)
                parts.append(read)
    if any(not isinstance(part, TextPart) for part in parts):  # some clients send an empty text beside a picture
        parts = [part for part in parts if not isinstance(part, TextPart) or part.text.strip()]
    return Dialogue(tuple(parts), "\n".join(filter(None, instructions)) or None, tuple(turns))


def _text_of(message: ChatMessage, param: str, transcripts: Mapping[str, str]) -> str:
    if message.tool_calls:
        raise RequestError("Tools are not supported here.", param=f"{param}.tool_calls", code="not_supported")
    texts = [part.refusal or part.text or "" for part in message.content if part.type in TEXT]
    if message.role in SYSTEM and len(texts) < len(message.content):
        raise RequestError(f"A {message.role} message takes text only.", param=f"{param}.content")
    if message.audio is not None and not any(texts):
        texts.append(_transcript(message.audio, f"{param}.audio", transcripts))
    return "\n".join(filter(None, (*texts, DRAWN if message.images else "")))


def _transcript(spoken: SpokenReply, param: str, transcripts: Mapping[str, str]) -> str:
    if spoken.transcript is not None:
        return spoken.transcript
    if spoken.id is None or spoken.id not in transcripts:
        message = f"The spoken answer {spoken.id!r} is not known any more; send what it said as `content`."
        raise RequestError(message, param=f"{param}.id", code="audio_not_found")
    return transcripts[spoken.id]
