"""From a request to a plan: preset, prompt embeddings, canvas with its pins, decoding parameters."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from unmask_engine.choose import choose_preset
from unmask_engine.layout import MAX_PROMPT_TOKENS, Content, Prompt, count_tokens, lay_out, too_long, without_slots
from unmask_engine.loaded import LoadedBundle
from unmask_engine.preset import Preset
from unmask_engine.request import AudioPart, GenerationRequest, ImagePart, Modality, Part, RequestError, TextPart
from unmask_engine.settings import Settings, resolve_settings
from unmask_engine.state import IdRanges, Plan, canvas_of

MAX_CANVAS_TOKENS: Final = 2048
MAX_TEXT_CHARACTERS: Final = 200_000  # no text of this length fits MAX_PROMPT_TOKENS; tokenising it takes seconds


@dataclass(frozen=True)
class Prepared:
    """A request that is ready to be decoded; its cost is known: `plan.steps` over prompt and canvas."""

    preset: Preset
    outputs: tuple[Modality, ...]  # asked for, in the canvas's order
    plan: Plan
    input_tokens: Mapping[Modality, int]
    encode_ms: float


def prepare(bundle: LoadedBundle, request: GenerationRequest) -> Prepared:
    """Lay out prompt and canvas; raises RequestError for what the bundle cannot do or the caller may not ask."""
    started = time.perf_counter()
    preset = choose_preset(bundle.presets, request)
    outputs = tuple(modality for modality in preset.outputs if modality in request.outputs or not request.outputs)
    _check_codecs(bundle, preset, outputs)
    content = _content(request.parts, request.instructions)
    text_tokens = len(bundle.tokenizer.encode_plain(content.text))
    if text_tokens > MAX_PROMPT_TOKENS:  # before any picture or sound is encoded
        raise too_long(text_tokens)
    prompt = lay_out(bundle, preset.messages, content)
    length = _canvas_length(preset, request, text_tokens, len(prompt.ids))
    settings = resolve_settings(preset, request.decoding, length)
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
    plan = _plan(bundle, preset, settings, length, prompt, unconditional, request.decoding.constrain)
    elapsed_ms = (time.perf_counter() - started) * 1e3
    return Prepared(preset, outputs, plan, count_tokens(bundle, prompt), elapsed_ms)


def _plan(
    bundle: LoadedBundle,
    preset: Preset,
    settings: Settings,
    length: int,
    prompt: Prompt,
    unconditional: Tensor | None,
    constrain: bool,
) -> Plan:
    vocabulary = bundle.vocabulary
    compat = settings.reference_compat
    pins = {
        pin.position(length): vocabulary.special[pin.token] for pin in preset.pins if pin.in_reference or not compat
    }
    if len(pins) >= length or not all(0 <= position < length for position in pins):
        raise RequestError(
            f"max_tokens {length} leaves no room for an answer of task {preset.task}",
            param="decoding.max_tokens",
            code="max_tokens_out_of_range",
        )
    starts = [position for position, token in pins.items() if token == vocabulary.special["begin_of_audio"]]
    return Plan(
        settings=settings,
        prompt=prompt.embeddings,
        unconditional=unconditional,
        canvas=canvas_of(length, vocabulary.mask, pins),
        allowed=_allowed(bundle, preset, length, pins, constrain and not compat),
        mask=vocabulary.mask,
        end=None if compat else vocabulary.end,
        end_from=starts[0] if starts else 0,
    )


def _allowed(
    bundle: LoadedBundle, preset: Preset, length: int, pins: Mapping[int, int], constrain: bool
) -> tuple[IdRanges, ...]:
    """Inside a framed image its codes alone; where speech is spoken its codes and frame; elsewhere everything."""
    vocabulary = bundle.vocabulary
    at = {token: position for position, token in pins.items()}
    image = range(
        at.get(vocabulary.special["begin_of_image"], length), at.get(vocabulary.special["end_of_image"], length)
    )
    speech_from = at.get(vocabulary.special["begin_of_audio"], 0) if "audio" in preset.outputs else length
    allowed = []
    for position in range(length):
        if constrain and position in image:
            allowed.append(vocabulary.image_span)
        elif constrain and position >= speech_from:
            allowed.append(vocabulary.audio_span)
        else:
            allowed.append(vocabulary.everything)
    return tuple(allowed)


def _canvas_length(preset: Preset, request: GenerationRequest, text_tokens: int, prompt_tokens: int) -> int:
    length = preset.canvas.length(text_tokens, prompt_tokens)
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


def _content(parts: tuple[Part, ...], instructions: str | None) -> Content:
    """All texts as one, and at most one image and one recording."""
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    images = [part for part in parts if isinstance(part, ImagePart)]
    recordings = [part for part in parts if isinstance(part, AudioPart)]
    for name, found in (("image", images), ("recording", recordings)):
        if len(found) > 1:
            raise RequestError(f"one {name} a request, not {len(found)}", param="input", code="too_many_parts")
    text = "\n".join(texts)
    if texts and not text.strip():
        raise RequestError("the text is empty", param="input", code="text_empty")
    characters = len(text) + len(instructions or "")
    if characters > MAX_TEXT_CHARACTERS:
        raise RequestError(
            f"the text has {characters:,} characters, at most {MAX_TEXT_CHARACTERS:,} are allowed",
            param="input",
            code="input_too_long",
        )
    return Content(text, images[0] if images else None, recordings[0] if recordings else None, instructions)


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
