"""A dialogue as requests to the model: one answer, and its speech where the model cannot speak and think at once.

A model that is trained on single questions answers the last one: earlier turns, and the instructions that every voice
client sends, would only confuse it. Its presets say what it is trained for.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from unmask_engine.choose import modality
from unmask_engine.preset import Preset
from unmask_engine.request import (
    Decoding,
    GenerationRequest,
    ImagePart,
    Modality,
    Part,
    RequestError,
    TextPart,
    Turn,
)
from unmask_server.clauses import clauses
from unmask_server.realtime.config import Session, Truncation, Unmask
from unmask_server.realtime.items import Item, Shown

# Left to right, so that the speech can begin before the last step: with the built-in model after 47 of 80 steps.
SPEECH_BLOCK: Final = 16  # tokens
# Of what was said before, whole turns. A byte is at most one token, so 2,192 of a prompt's 8,192 are left to the rest.
MAX_HISTORY_BYTES: Final = 6000


@dataclass(frozen=True)
class Plan:
    answer: GenerationRequest
    speaks_by: Preset | None = None  # where the answer is text that is to be spoken
    word_times: bool = False

    def speech(self, text: str) -> tuple[GenerationRequest, ...]:
        """What speaks the answer, one request after another."""
        pieces = () if self.speaks_by is None else clauses(text, self.speaks_by.piece_words)
        return tuple(
            GenerationRequest((TextPart(piece),), ("audio",), task="tts", word_times=self.word_times)
            for piece in pieces
        )


def plan(items: Sequence[Item], presets: Sequence[Preset], session: Session, told: str | None) -> Plan:
    """Raises RequestError where the model has no preset for it. `told` are this response's own instructions."""
    at = _last_turn(items)
    if told and (at is None or any(item.role == "assistant" for item in items[at + 1 :])):
        # Nobody has asked anything: the instructions say what to say.
        parts: tuple[Part, ...] = (TextPart(told),)
        earlier, instructions = tuple(items), ""
    elif at is not None:
        parts = _with_picture(items[at].parts, items)
        earlier, instructions = tuple(items[:at]), session.instructions
    else:
        message = "There is nothing to answer: the conversation holds no message of a user."
        raise RequestError(message, param="response", code="nothing_to_answer")
    wants_audio = "audio" in session.output_modalities
    preset = _answering(presets, parts)
    speaks = wants_audio and "audio" in preset.outputs
    voice = next((p for p in presets if p.task == "tts"), None)
    if wants_audio and not speaks and voice is None:
        message = "This model cannot speak an answer to text; ask for text with output_modalities."
        raise RequestError(message, param="response.output_modalities", code="modalities_unsupported")
    request = GenerationRequest(
        parts,
        outputs=("text", "audio") if speaks else ("text",),
        task=preset.task,
        instructions=_instructions(preset, instructions) if preset.dialogue else None,
        decoding=Decoding(
            max_tokens=_max_tokens(preset, session),
            block_size=preset.block_size or (SPEECH_BLOCK if speaks else None),
        ),
        history=_history(earlier, parts, session.truncation) if preset.dialogue else (),
        word_times=session.x_unmask.word_times and speaks,
    )
    return Plan(request, voice if wants_audio and not speaks else None, session.x_unmask.word_times)


def transcription(parts: tuple[Part, ...], wanted: Unmask) -> GenerationRequest:
    return GenerationRequest(parts, ("text",), task="asr", word_times=wanted.word_times)


def _last_turn(items: Sequence[Item]) -> int | None:
    """The last message of a user that says something; else the last picture."""
    users = [i for i, item in enumerate(items) if item.role == "user"]
    saying = [i for i in users if not all(isinstance(c, Shown) for c in items[i].content)]
    return max(saying or users, default=None)


def _history(items: Sequence[Item], asked: Sequence[Part], truncation: Truncation) -> tuple[Turn, ...]:
    """The latest turns, with what was shown and is not `asked` about; recordings that nobody has written down, too.

    The dialogue is cut whenever its text has grown too long. Raises RequestError if it may not be.
    """
    limits = truncation.token_limits
    bound = None if limits is None else limits.post_instructions
    room = MAX_HISTORY_BYTES if bound is None else min(bound, MAX_HISTORY_BYTES)  # a byte is at most one token
    turns: deque[tuple[Turn, int]] = deque()
    num_bytes = 0
    for item in items:
        media = tuple(part for part in item.media if not any(part is other for other in asked))
        if not (item.text or media):
            continue
        turns.append((Turn(item.role, item.text, media), len(item.text.encode())))
        num_bytes += turns[-1][1]
        if num_bytes <= room:
            continue
        if truncation.type == "disabled":
            message = f"The dialogue is longer than the {room:,} bytes of text that come along with a question; "
            message += "delete items, or set truncation to auto."
            raise RequestError(message, param="session.truncation", code="context_length_exceeded")
        while num_bytes > truncation.retention_ratio * room:
            num_bytes -= turns.popleft()[1]
    return tuple(turn for turn, _ in turns)


def _with_picture(parts: tuple[Part, ...], items: Sequence[Item]) -> tuple[Part, ...]:
    """What was shown last stays in view."""
    if any(isinstance(part, ImagePart) for part in parts):
        return parts
    shown = [c.image for item in items for c in item.content if isinstance(c, Shown) and c.image is not None]
    return (*parts, *shown[-1:])


def _answering(presets: Sequence[Preset], parts: tuple[Part, ...]) -> Preset:
    """By its name, because speech -> text would be a transcription."""
    inputs: frozenset[Modality] = frozenset(map(modality, parts))
    outputs: tuple[Modality, ...] = ("text", "audio") if "audio" in inputs else ("text",)
    for preset in presets:
        if frozenset(preset.inputs) == inputs and frozenset(preset.outputs) == frozenset(outputs):
            return preset
    message = f"This model has no answer to {' + '.join(sorted(inputs))} in one message."
    raise RequestError(message, param="input", code="modalities_unsupported")


def _instructions(preset: Preset, given: str) -> str | None:
    """Behind the preset's own, which tell the model its task."""
    own = [message.content for message in preset.messages if message.role == "system"]
    return "\n".join([*own, given]) if given else None


def _max_tokens(preset: Preset, session: Session) -> int | None:
    """The client's bound, where the preset's canvas is larger."""
    asked, canvas = session.max_output_tokens, preset.canvas.tokens
    return asked if canvas is not None and asked != "inf" and asked < canvas else None
