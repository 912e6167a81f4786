"""When the words of an answer are said, in the recording that was given or in the speech that was made."""

from dataclasses import dataclass, replace

from unmask_engine.alignment import WordClock
from unmask_engine.loaded import LoadedBundle
from unmask_engine.preset import Preset
from unmask_engine.request import AudioPart, Generation, Modality, RequestError


@dataclass(frozen=True)
class Timing:
    recording: AudioPart | None  # None: the answer's speech
    wording: str | None  # None: the answer's text


def word_timing(
    bundle: LoadedBundle, preset: Preset, outputs: tuple[Modality, ...], text: str, recording: AudioPart | None
) -> Timing:
    """Raises RequestError where the words of such an answer are said nowhere, or nobody can tell when."""
    word_clock(bundle, "return")
    if "audio" in outputs and preset.outputs == ("audio",):
        return Timing(None, text)
    if "audio" in outputs and "text" in outputs:
        return Timing(None, None)
    if (preset.inputs, preset.outputs) == (("audio",), ("text",)):
        return Timing(recording, None)
    message = "words have times where a recording is transcribed, or where the answer is speech together with its text"
    raise RequestError(message, param="return", code="not_supported")


def word_clock(bundle: LoadedBundle, param: str) -> WordClock:
    if bundle.word_clock is None:
        message = f"the speech encoder of bundle {bundle.name} does not tell when a word is said"
        raise RequestError(message, param=param, code="not_supported")
    return bundle.word_clock


def with_words(clock: WordClock | None, timing: Timing, generation: Generation) -> Generation:
    """No words where they cannot be found."""
    recording = timing.recording or generation.audio
    wording = timing.wording if timing.wording is not None else generation.text
    if clock is None or recording is None or not wording:
        return generation
    return replace(generation, words=clock.words(recording, wording))
