"""From a request to a plan: preset, prompt embeddings, canvas with its pins, decoding parameters."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from unmask_engine.canvas import Paste, blank
from unmask_engine.choose import choose_preset
from unmask_engine.edit import edited
from unmask_engine.encode import MAX_PROMPT_TOKENS, too_long
from unmask_engine.layout import Content, count_tokens, lay_out, without_slots
from unmask_engine.loaded import LoadedBundle
from unmask_engine.preset import Preset
from unmask_engine.request import (
    MAX_CANVAS_TOKENS,
    AudioPart,
    Generation,
    GenerationRequest,
    ImagePart,
    JointEdit,
    Modality,
    RequestError,
    TextPart,
)
from unmask_engine.settings import resolve_settings
from unmask_engine.state import Plan
from unmask_engine.word_times import Timing, word_timing

MAX_TEXT_CHARACTERS: Final = 200_000  # no text of this length fits MAX_PROMPT_TOKENS; tokenising it takes seconds


@dataclass(frozen=True)
class Place:
    """Where a target of a joint edit stands among the others."""

    step: int = 0  # planned for those before it
    position: int = 0  # canvas positions before it
    later_steps: int = 0
    later_positions: int = 0
    later_pins: int = 0  # of these positions


@dataclass(frozen=True)
class Prepared:
    """A request that is ready to be decoded; its cost is known: `plan.steps` over prompt and canvas.

    Of a joint edit it is one target (joint.py): the next one is prepared with what has become of it.
    """

    preset: Preset
    outputs: tuple[Modality, ...]  # asked for, in the canvas's order
    plan: Plan
    input_tokens: Mapping[Modality, int]
    encode_ms: float
    paste: Paste | None = None  # of an edit
    timing: Timing | None = None  # where the words' times are asked for
    place: Place = Place()
    then: Callable[[Generation], "Prepared"] | None = None  # what comes after it
    whole: Callable[[Generation], Generation] | None = None  # its answer together with those before it


def prepare(bundle: LoadedBundle, request: GenerationRequest) -> Prepared:
    """Lay out prompt and canvas; raises RequestError for what the bundle cannot do or the caller may not ask."""
    started = time.perf_counter()
    preset = choose_preset(bundle.presets, request)
    outputs = tuple(modality for modality in preset.outputs if modality in request.outputs or not request.outputs)
    _check_codecs(bundle, preset, outputs)
    content = _content(request)
    timing = word_timing(bundle, preset, outputs, content.text, content.audio) if request.word_times else None
    text_tokens = len(bundle.tokenizer.encode_plain(content.text))
    said_tokens = text_tokens + sum(len(bundle.tokenizer.encode_plain(turn.text)) for turn in content.history)
    if said_tokens > MAX_PROMPT_TOKENS:  # before any picture or sound is encoded
        raise too_long(said_tokens)
    prompt = lay_out(bundle, preset.messages, content)
    decoding = request.decoding
    paste: Paste | None = None
    assert not isinstance(request.edit, JointEdit)  # joint.py takes it apart
    if request.edit is not None:
        canvas, paste = edited(bundle, preset, request.edit, content.text, decoding)
        num_tokens = int((canvas.ids == bundle.vocabulary.mask).sum())
    else:
        num_tokens = _canvas_length(preset, request, content.text, text_tokens, len(prompt.ids))
        canvas = blank(
            bundle.vocabulary, preset, num_tokens, compat=decoding.reference_compat, constrain=decoding.constrain
        )
    settings = resolve_settings(preset, decoding, num_tokens)
    unconditional = None
    if settings.guidance > 0:
        nothing = Content(instructions=request.instructions)
        unconditional = lay_out(bundle, without_slots(preset.messages), nothing).embeddings
        if settings.reference_compat and len(unconditional) > len(prompt.ids):
            raise RequestError(
                "reference_compat with guidance needs a prompt no shorter than the empty one; leave it out",
                param="decoding.reference_compat",
                code="prompt_too_short",
            )
    plan = Plan(
        settings=settings,
        prompt=prompt.embeddings,
        unconditional=unconditional,
        canvas=canvas.ids,
        allowed=canvas.allowed,
        mask=bundle.vocabulary.mask,
        end=None if settings.reference_compat else bundle.vocabulary.end,
        end_from=canvas.end_from,
    )
    elapsed_ms = (time.perf_counter() - started) * 1e3
    return Prepared(preset, outputs, plan, count_tokens(bundle, prompt), elapsed_ms, paste, timing)


def _canvas_length(preset: Preset, request: GenerationRequest, text: str, text_tokens: int, prompt_tokens: int) -> int:
    length = preset.canvas.length(text_tokens, prompt_tokens, len(text))
    asked = request.decoding.max_tokens
    if asked is not None and "image" in preset.outputs and asked != length:
        raise RequestError(
            f"an image is always {length} tokens; leave max_tokens out",
            param="decoding.max_tokens",
            code="max_tokens_fixed",
        )
    if asked is not None and not 1 <= asked <= MAX_CANVAS_TOKENS:
        raise RequestError(
            f"max_tokens must be between 1 and {MAX_CANVAS_TOKENS}, not {asked}",
            param="decoding.max_tokens",
            code="max_tokens_out_of_range",
        )
    if asked is not None:
        return asked
    if not request.decoding.reference_compat:
        length = max(length, preset.canvas.minimum)
    if length > MAX_CANVAS_TOKENS:
        raise RequestError(
            f"the answer would take {length} tokens, at most {MAX_CANVAS_TOKENS} are allowed; send it in parts",
            param="input",
            code="input_too_long",
        )
    return length


def _content(request: GenerationRequest) -> Content:
    """All texts as one, at most one image and one recording, and the dialogue before them."""
    parts = request.parts
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    images = [part for part in parts if isinstance(part, ImagePart)]
    recordings = [part for part in parts if isinstance(part, AudioPart)]
    for name, found in (("image", images), ("recording", recordings)):
        if len(found) > 1:
            raise RequestError(f"one {name} a request, not {len(found)}", param="input", code="too_many_parts")
    text = "\n".join(texts)
    if texts and not text.strip():
        raise RequestError("the text is empty", param="input", code="text_empty")
    said = (request.instructions or "", *(turn.text for turn in request.history))
    characters = len(text) + sum(map(len, said))
    if characters > MAX_TEXT_CHARACTERS:
        raise RequestError(
            f"the text has {characters:,} characters, at most {MAX_TEXT_CHARACTERS:,} are allowed",
            param="input",
            code="input_too_long",
        )
    return Content(
        text,
        images[0] if images else None,
        recordings[0] if recordings else None,
        request.instructions,
        request.history,
    )


def _check_codecs(bundle: LoadedBundle, preset: Preset, outputs: tuple[Modality, ...]) -> None:
    needs = {
        "the image tokenizer": ("image" in preset.inputs or "image" in outputs) and bundle.image_codec is None,
        "the speech front end": "audio" in preset.inputs and bundle.speech_frontend is None,
        "the speech decoder": "audio" in outputs and bundle.speech_codec is None,
    }
    if missing := [name for name, is_missing in needs.items() if is_missing]:
        raise RequestError(
            f"bundle {bundle.name} is loaded without {' and '.join(missing)}, which task {preset.task} needs",
            param="task",
            code="codec_missing",
        )
