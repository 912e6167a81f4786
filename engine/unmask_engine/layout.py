"""The prompt of a request: the chat template with text, image tokens and speech embeddings in their places.

Formats: model.md, Audio input path and Tokens; golden `prompts`.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from unmask_engine.encode import MAX_PROMPT_TOKENS, Recalled, encode_image, encode_speech, recall, too_long
from unmask_engine.loaded import LoadedBundle
from unmask_engine.preset import AUDIO_SLOT, IMAGE_SLOT, TEXT_SLOT, Message
from unmask_engine.request import AudioPart, ImagePart, Modality, Turn
from unmask_engine.text import render_chat

_TEMPLATE_TOKENS: Final = 256  # at most, for what stands around texts and media
_INSTRUCTIONS_SLOT: Final = "{instructions}"
_HISTORY_SLOT: Final = "{{history {}}}"


@dataclass(frozen=True)
class Content:
    """What a caller puts into the template."""

    text: str = ""
    image: ImagePart | None = None
    audio: AudioPart | None = None
    instructions: str | None = None
    history: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """What stands before the canvas. `ids` holds the codes of an image and a placeholder for each row of speech."""

    ids: tuple[int, ...]
    embeddings: Tensor  # (P, H)


def lay_out(bundle: LoadedBundle, messages: tuple[Message, ...], content: Content) -> Prompt:
    """Encode a preset's messages with their slots filled; raises RequestError where that is too much or too little."""
    vocabulary, model = bundle.vocabulary, bundle.model
    image = [] if content.image is None else [encode_image(bundle, content.image)]
    recording = [] if content.audio is None else [encode_speech(bundle, content.audio)]
    texts = (content.text, content.instructions or "", *(turn.text for turn in content.history))
    given = sum(map(len, image)) + sum(map(len, recording))
    said = sum(len(text.encode()) for text in texts)  # a byte is at most one token
    recalled = recall(bundle, content.history, MAX_PROMPT_TOKENS - _TEMPLATE_TOKENS - given - said)
    turns = _with_history(_with_instructions(messages, content.instructions), recalled)
    template = render_chat((message.role, message.content) for message in turns)
    slots = {TEXT_SLOT: content.text, _INSTRUCTIONS_SLOT: content.instructions or ""}
    slots |= {_HISTORY_SLOT.format(i): turn.turn.text for i, turn in enumerate(recalled)}
    ids = list(bundle.tokenizer.encode_template(template, slots))
    images = [*(codes for turn in recalled for codes in turn.images), *image]
    recordings = [*(rows for turn in recalled for rows in turn.recordings), *recording]
    frame = (vocabulary.special["begin_of_image"], vocabulary.special["end_of_image"])
    for codes in images:  # each in the first place that is left
        _put(ids, bundle.tokenizer.id_of(IMAGE_SLOT), [frame[0], *codes, frame[1]])
    frame = (vocabulary.special["begin_of_audio"], vocabulary.special["end_of_audio"])
    speech_from = []
    for rows in recordings:
        places = [vocabulary.special["context_of_audio"]] * len(rows)
        speech_from.append(1 + _put(ids, bundle.tokenizer.id_of(AUDIO_SLOT), [frame[0], *places, frame[1]]))
    if len(ids) > MAX_PROMPT_TOKENS:
        raise too_long(len(ids))
    with torch.inference_mode():
        embeddings = model.embed(torch.tensor(ids, device=bundle.device))
        for start, rows in zip(speech_from, recordings, strict=True):
            embeddings[start : start + len(rows)] = rows.to(embeddings.dtype)
    return Prompt(tuple(ids), embeddings)


def without_slots(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages of the unconditional prompt: the template without the slots, nor the line breaks that set them off.

    For S2I these are the reference's 23 tokens (golden `S2I_uncond_prompt_ids`).
    """
    stripped = []
    for message in messages:
        content = message.content
        for slot in (TEXT_SLOT, AUDIO_SLOT, IMAGE_SLOT):
            content = content.replace(slot, "")
        stripped.append(Message(message.role, content if content == message.content else content.strip("\n")))
    return tuple(stripped)


def count_tokens(bundle: LoadedBundle, prompt: Prompt) -> dict[Modality, int]:
    """How many positions of the prompt each modality takes; template and frames count as text."""
    image = sum(token in bundle.vocabulary.image for token in prompt.ids)
    audio = prompt.ids.count(bundle.vocabulary.special["context_of_audio"])
    return {"text": len(prompt.ids) - image - audio, "audio": audio, "image": image}


def _put(ids: list[int], slot: int, content: list[int]) -> int:
    """Replace the one slot id by the content, in place; returns where the content begins."""
    at = ids.index(slot)
    ids[at : at + 1] = content
    return at


def _with_instructions(messages: tuple[Message, ...], instructions: str | None) -> tuple[Message, ...]:
    """A caller's instructions take the place of the preset's system message."""
    if instructions is None:
        return messages
    others = tuple(message for message in messages if message.role != "system")
    return (Message("system", _INSTRUCTIONS_SLOT), *others)


def _with_history(messages: tuple[Message, ...], history: tuple[Recalled, ...]) -> tuple[Message, ...]:
    """The turns of the dialogue so far stand between the system message and the caller's last turn."""
    earlier = tuple(Message(told.turn.role, told.content(_HISTORY_SLOT.format(i))) for i, told in enumerate(history))
    start = sum(message.role == "system" for message in messages)
    return (*messages[:start], *earlier, *messages[start:])
