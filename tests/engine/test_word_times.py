"""When words are said: which recording and which text are put together, and edits by words."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from unmask_engine.alignment import WordClock
from unmask_engine.engine import Engine
from unmask_engine.loaded import LoadedBundle
from unmask_engine.prompt import prepare
from unmask_engine.request import (
    AudioPart,
    Edit,
    GenerationRequest,
    ImagePart,
    RequestError,
    Span,
    TextPart,
    Word,
    WordSpan,
)
from unmask_engine.testing_fakes import fake_bundle

RECORDING = AudioPart(np.random.default_rng(7).uniform(-1, 1, 44100).astype(np.float32), 22050)  # 2 s, 25 codes
SAID = "we met on Monday."


class EvenClock:
    """Takes all words for equally long; knows none of them that is `unknown`."""

    def words(self, recording: AudioPart, text: str) -> tuple[Word, ...]:
        said = text.split()
        each = len(recording.samples) / recording.sample_rate / max(1, len(said))
        return () if "unknown" in said else tuple(Word(w, i * each, (i + 1) * each) for i, w in enumerate(said))


def timed_bundle() -> LoadedBundle:
    return replace(fake_bundle(), word_clock=EvenClock())  # type: ignore[arg-type]


def test_words_of_speech_that_was_made_are_those_of_its_text() -> None:
    request = GenerationRequest((TextPart("a red circle"),), ("audio",), word_times=True)
    (generation,) = Engine(timed_bundle()).generate([request])
    assert generation.audio is not None
    assert [word.text for word in generation.words] == ["a", "red", "circle"]
    assert generation.words[-1].end == pytest.approx(len(generation.audio.samples) / generation.audio.sample_rate)


def test_words_that_were_heard_lie_in_the_recording() -> None:
    request = GenerationRequest((RECORDING,), ("text",), word_times=True)
    (generation,) = Engine(timed_bundle()).generate([request])
    assert generation.text is not None
    assert [word.text for word in generation.words] == generation.text.split()
    if generation.words:
        assert generation.words[-1].end == pytest.approx(2.0)


def test_nobody_who_did_not_ask_waits_for_the_times() -> None:
    (generation,) = Engine(timed_bundle()).generate([GenerationRequest((RECORDING,), ("text",))])
    assert generation.words == ()


@pytest.mark.parametrize(
    "request_",
    [
        GenerationRequest((TextPart("x"),), ("image",)),
        GenerationRequest((RECORDING,), ("text",), task="sqa"),  # an answer that nobody says
        GenerationRequest((RECORDING,), ("audio",), task="sqa"),
        GenerationRequest((ImagePart(np.zeros((64, 64, 3), np.uint8)),), ("text",)),
    ],
)
def test_words_that_nobody_says_have_no_times(request_: GenerationRequest) -> None:
    with pytest.raises(RequestError, match="transcribed") as caught:
        prepare(timed_bundle(), replace(request_, word_times=True))
    assert caught.value.param == "return"


def test_a_bundle_whose_ears_tell_no_times_says_so() -> None:
    with pytest.raises(RequestError, match="does not tell when") as caught:
        prepare(fake_bundle(), GenerationRequest((RECORDING,), ("text",), word_times=True))
    assert (caught.value.param, caught.value.code) == ("return", "not_supported")
    with pytest.raises(RequestError, match="does not tell when") as caught:
        prepare(fake_bundle(), by_words(WordSpan("met")))
    assert caught.value.param == "edit.spans"


def by_words(*spans: Span | WordSpan, transcript: str | None = SAID) -> GenerationRequest:
    edit = Edit(RECORDING, spans=spans, transcript=transcript)
    return GenerationRequest((TextPart("they met on Tuesday"),), ("audio",), edit=edit)


def test_words_are_masked_where_they_are_said() -> None:
    plan = prepare(timed_bundle(), by_words(WordSpan("We", "they"), WordSpan("monday", "Tuesday"))).plan
    # Half a second a word, 80 ms a code; the code of begin_of_audio comes first.
    assert (plan.canvas == plan.mask).nonzero().flatten().tolist() == [*range(1, 8), *range(19, 26)]


def test_spans_of_words_and_of_seconds_go_together() -> None:
    plan = prepare(timed_bundle(), by_words(WordSpan("met on"), Span(1.6, 1.68))).plan
    assert (plan.canvas == plan.mask).nonzero().flatten().tolist() == [*range(7, 20), 21]


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (by_words(WordSpan("met"), transcript=None), "edit.transcript"),
        (by_words(WordSpan("met"), transcript="unknown"), "edit.transcript"),
        (by_words(WordSpan("met"), transcript=" "), "edit.transcript"),
        (by_words(Span(0, 1)), "edit.transcript"),  # nothing looks at it
        (by_words(WordSpan("Sunday")), "edit.spans"),
        (by_words(WordSpan("on"), WordSpan("met")), "edit.spans"),
        (by_words(WordSpan("met Monday")), "edit.spans"),
        (by_words(WordSpan(" ")), "edit.spans"),
    ],
)
def test_what_is_wrong_is_named(request_: GenerationRequest, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        prepare(timed_bundle(), request_)
    assert caught.value.param == param


def test_a_bundle_switches_the_times_on(tiny_bundle: Path, tmp_path: Path) -> None:
    assert LoadedBundle.load(tiny_bundle).word_clock is None
    folder = tmp_path / "timed"
    shutil.copytree(tiny_bundle, folder)
    description = json.loads((folder / "bundle.json").read_text())
    description["media"]["ctc_row_s"] = 0.06
    (folder / "bundle.json").write_text(json.dumps(description))
    clock = LoadedBundle.load(folder).word_clock
    assert isinstance(clock, WordClock)
    heard = clock.hear(RECORDING.samples[:16000])
    assert heard.shape == (17, 4)  # a row for each 60 ms, four classes
    torch.testing.assert_close(heard.exp().sum(dim=1), torch.ones(17))
    assert len(clock.hear(np.zeros(100, np.float32))) == 0
    token = clock.encode("!")[0]  # ids of printable ASCII begin at "!"; the tiny head has classes for the first three
    assert token == 0
    words = clock.words(RECORDING, "! !")
    assert words == () or all(left.end <= right.start for left, right in pairwise(words))
