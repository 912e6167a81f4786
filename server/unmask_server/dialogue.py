"""A dialogue as a request takes it, and the native `messages` read as one.

The prompt takes one image and one recording, in the last turn: those of an earlier turn come along with it, so that a
question may follow a picture. What does not fit is refused, nothing is left out.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from unmask_engine.request import AudioPart, ImagePart, Part, RequestError, Turn
from unmask_server.body import Body, Media, read_part
from unmask_server.schema import GenerateRequest, Message


@dataclass(frozen=True)
class Dialogue:
    parts: tuple[Part, ...]  # of the last turn
    instructions: str | None = None
    history: tuple[Turn, ...] = ()


async def read_messages(body: Body, media: Media) -> Dialogue:
    """Decodes media in a worker thread; raises RequestError where the messages are no dialogue."""
    messages = body.request.messages or []
    _check_roles(messages)
    for i, message in enumerate(messages):
        if not message.content:
            param = f"messages[{i}].content"
            raise RequestError(f"{param} is empty; give at least one part.", param=param, code="missing_input")
    instructions = _instructions(body.request)
    first = 0 if messages[0].role != "system" else 1
    turns = [Turn(message.role, text) for message in messages[first:-1] if (text := _text(message))]
    if all(part.type == "text" for message in messages for part in message.content):
        parts = _last_parts(body, first, media)  # a thread would cost more than it
    else:
        parts = await asyncio.to_thread(_last_parts, body, first, media)
    return Dialogue(parts, instructions, tuple(turns))


def check_room(part: Part, parts: Sequence[Part], param: str) -> None:
    """Raises RequestError where `part` is a second image or recording beside `parts`."""
    for kind, name in ((ImagePart, "image"), (AudioPart, "recording")):
        if isinstance(part, kind) and any(isinstance(other, kind) for other in parts):
            message = f"A dialogue takes one {name}; say in words what is in the others, or begin a new dialogue."
            raise RequestError(message, param=param, code="too_many_parts")


def check_last_role(role: str, param: str) -> None:
    if role != "user":
        raise RequestError(f"The last message must be the user's, not the {role}'s.", param=f"{param}.role")


def _check_roles(messages: Sequence[Message]) -> None:
    if not messages:
        raise RequestError("messages is empty; give at least one.", param="messages", code="missing_input")
    check_last_role(messages[-1].role, f"messages[{len(messages) - 1}]")
    for i, message in enumerate(messages[1:], 1):
        if message.role == "system":
            raise RequestError("A system message comes first, and once.", param=f"messages[{i}].role")


def _instructions(wire: GenerateRequest) -> str | None:
    message = (wire.messages or [])[0]
    if message.role != "system":
        return wire.instructions
    if wire.instructions is not None or any(part.type != "text" for part in message.content):
        text = "Give the instructions once, as text: in `instructions` or in the system message."
        raise RequestError(text, param="messages[0].content")
    return _text(message)


def _text(message: Message) -> str:
    return "\n".join(part.text for part in message.content if part.text)


def _last_parts(body: Body, first: int, media: Media) -> tuple[Part, ...]:
    """What the last turn says, with the media of all turns from `first` on."""
    messages = body.request.messages or []
    parts: list[Part] = []
    for i, message in enumerate(messages[first:], first):
        for j, part in enumerate(message.content):
            if part.type == "text" and message is not messages[-1]:
                continue
            param = f"messages[{i}].content[{j}]"
            read = read_part(part, body.files, param, media)
            check_room(read, parts, param)
            parts.append(read)
    return tuple(parts)
