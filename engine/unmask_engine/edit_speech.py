"""Spans of a recording said anew: the tokens that a span touches. Time stays: a span keeps its length."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from unmask_engine.canvas import Canvas, Paste, pinned
from unmask_engine.loaded import LoadedBundle
from unmask_engine.media import resample
from unmask_engine.request import AudioPart, Generation, RequestError, Span

FADE_S: Final = 0.02  # inside a span, at both of its ends
SHORTEST_S: Final = 0.01  # a span
ROUNDING_S: Final = 0.01  # a caller may have rounded the recording's duration


def edit_speech(bundle: LoadedBundle, target: AudioPart, spans: Sequence[Span], wording: str) -> tuple[Canvas, Paste]:
    """`wording` is what the whole recording is to say."""
    if bundle.speech_tokenizer is None:
        message = f"bundle {bundle.name} is loaded without the speech tokenizer, which an edit of audio needs"
        raise RequestError(message, param="edit.target", code="codec_missing")
    spans = sorted(spans, key=lambda span: span.start)
    _check(spans, len(target.samples) / target.sample_rate)
    _check_wording(spans, wording)
    body = [bundle.vocabulary.audio[code] for code in _encode(bundle, target)]
    for span in spans:
        for at in _cells(span, bundle.audio_token_rate, len(body)):
            body[at] = bundle.vocabulary.mask

    def paste(generation: Generation) -> Generation:
        if generation.audio is None:
            return generation
        said = resample(generation.audio, target.sample_rate).samples
        samples = target.samples.copy()
        for span in spans:
            _fade_in(samples, said, span, target.sample_rate)
        return replace(generation, audio=AudioPart(samples, target.sample_rate))

    vocabulary = bundle.vocabulary
    after = ("end_of_audio", "im_end", "newline")
    return pinned(vocabulary, ("begin_of_audio",), body, after, vocabulary.audio_codes), paste


def _cells(span: Span, rate: float, length: int) -> range:
    """The tokens that the span touches, of so many."""
    first, stop = math.floor(round(span.start * rate, 6)), math.ceil(round(span.end * rate, 6))
    return range(min(first, length - 1), min(stop, length))


def _fade_in(samples: NDArray[np.float32], said: NDArray[np.float32], span: Span, rate: int) -> None:
    """Replace the span's samples in place, fading from the old to the new and back."""
    start, stop = round(span.start * rate), min(round(span.end * rate), len(samples))
    new = np.zeros(stop - start, np.float32)
    heard = said[start:stop]
    new[: len(heard)] = heard
    ramp = (np.arange(len(new)) + 1) / (FADE_S * rate + 1)
    weight = np.minimum(1, np.minimum(ramp, ramp[::-1])).astype(np.float32)
    samples[start:stop] = samples[start:stop] * (1 - weight) + new * weight


@torch.inference_mode()
def _encode(bundle: LoadedBundle, audio: AudioPart) -> list[int]:
    assert bundle.speech_tokenizer is not None  # checked
    samples = torch.from_numpy(resample(audio, bundle.audio_input_rate).samples).to(bundle.device)
    codes: list[int] = bundle.speech_tokenizer.encode(samples).tolist()
    return codes


def _check(spans: Sequence[Span], duration: float) -> None:
    """`spans` in the order of their starts."""
    last = 0.0
    for span in spans:
        where = f"the span from {span.start:g} to {span.end:g} s"
        if not span.end - span.start >= SHORTEST_S:  # not a number is not, either
            raise _bad_span(f"{where} is empty; its end must come {SHORTEST_S:g} s after its start, or later")
        if not 0 <= span.start < duration or span.end > duration + ROUNDING_S:
            raise _bad_span(f"{where} lies outside of the recording, which lasts {duration:.3f} s")
        if span.start < last:
            raise _bad_span(f"{where} overlaps the one before it; make them one")
        last = span.end


def _check_wording(spans: Sequence[Span], wording: str) -> None:
    """A span's text must be in the wording that the model goes by, in the spans' order."""
    left = _plain(wording)
    for span in spans:
        if span.text is None:
            continue
        text = _plain(span.text)
        _, found, left = left.partition(text) if text else ("", "", left)
        if not found:
            message = f"the input must be the whole new wording; it lacks {span.text[:80]!r} where that span comes"
            raise _bad_span(message)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _bad_span(message: str) -> RequestError:
    return RequestError(message, param="edit.spans", code="span_invalid")
