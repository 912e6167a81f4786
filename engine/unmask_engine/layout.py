"""The prompt of a request: the chat template with text, image tokens and speech embeddings in their places.

Formats: model.md, Audio input path and Tokens; golden `prompts`.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from unmask_engine.codecs.image_pixels import prepare as prepare_pixels
from unmask_engine.loaded import LoadedBundle
from unmask_engine.media import resample
from unmask_engine.preset import AUDIO_SLOT, IMAGE_SLOT, TEXT_SLOT, Message
from unmask_engine.request import AudioPart, ImagePart, Modality, RequestError, Turn
from unmask_engine.text import render_chat

MAX_PROMPT_TOKENS: Final = 8192
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
    turns = _with_history(_with_instructions(messages, content.instructions), content.history)
    template = render_chat((message.role, message.content) for message in turns)
    slots = {TEXT_SLOT: content.text, _INSTRUCTIONS_SLOT: content.instructions or ""}
    slots |= {_HISTORY_SLOT.format(i): turn.text for i, turn in enumerate(content.history)}
    ids = list(bundle.tokenizer.encode_template(template, slots))
    if content.image is not None:
        frame = (vocabulary.special["begin_of_image"], vocabulary.special["end_of_image"])
        _put(ids, bundle.tokenizer.id_of(IMAGE_SLOT), [frame[0], *_encode_image(bundle, content.image), frame[1]])
    speech = None
    speech_from = 0
    if content.audio is not None:
        speech = _encode_speech(bundle, content.audio)
        frame = (vocabulary.special["begin_of_audio"], vocabulary.special["end_of_audio"])
        rows = [vocabulary.special["context_of_audio"]] * len(speech)
        speech_from = 1 + _put(ids, bundle.tokenizer.id_of(AUDIO_SLOT), [frame[0], *rows, frame[1]])
    if len(ids) > MAX_PROMPT_TOKENS:
        raise too_long(len(ids))
    with torch.inference_mode():
        embeddings = model.embed(torch.tensor(ids, device=bundle.device))
        if speech is not None:
            embeddings[speech_from : speech_from + len(speech)] = speech.to(embeddings.dtype)
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


def too_long(tokens: int) -> RequestError:
    return RequestError(
        f"the prompt takes {tokens} tokens, at most {MAX_PROMPT_TOKENS} are allowed",
        param="input",
        code="input_too_long",
    )


def _put(ids: list[int], slot: int, content: list[int]) -> int:
    """Replace the one slot id by the content, in place; returns where the content begins."""
    at = ids.index(slot)
    ids[at : at + 1] = content
    return at


@torch.inference_mode()
def _encode_image(bundle: LoadedBundle, image: ImagePart) -> list[int]:
    assert bundle.image_codec is not None  # prompt.py has checked
    pixels = prepare_pixels(image.pixels, bundle.image_input_size).unsqueeze(0).to(bundle.device)
    codes: list[int] = bundle.image_codec.encode(pixels).flatten().tolist()
    return [bundle.vocabulary.image[code] for code in codes]


@torch.inference_mode()
def _encode_speech(bundle: LoadedBundle, audio: AudioPart) -> Tensor:
    """(R, H) embeddings."""
    assert bundle.speech_frontend is not None  # prompt.py has checked
    feats = bundle.speech_frontend(resample(audio, bundle.audio_input_rate).samples)
    if len(feats) == 0:
        raise RequestError(
            "the recording is too short to be heard: 25 ms at least", param="input", code="audio_too_short"
        )
    if len(feats) > MAX_PROMPT_TOKENS:
        raise too_long(len(feats))
    return bundle.model.encode_speech(feats.unsqueeze(0).to(bundle.device))[0]


def _with_instructions(messages: tuple[Message, ...], instructions: str | None) -> tuple[Message, ...]:
    """A caller's instructions take the place of the preset's system message."""
    if instructions is None:
        return messages
    others = tuple(message for message in messages if message.role != "system")
    return (Message("system", _INSTRUCTIONS_SLOT), *others)


def _with_history(messages: tuple[Message, ...], history: tuple[Turn, ...]) -> tuple[Message, ...]:
    """The turns of the dialogue so far stand between the system message and the caller's last turn."""
    earlier = tuple(Message(turn.role, _HISTORY_SLOT.format(i)) for i, turn in enumerate(history))
    start = sum(message.role == "system" for message in messages)
    return (*messages[:start], *earlier, *messages[start:])
