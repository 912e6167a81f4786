"""Edits: what is given comes back as it was, and what is made lies where it was asked for."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from unmask_engine.edit_image import touched
from unmask_engine.edit_openings import openings
from unmask_engine.engine import Engine
from unmask_engine.prompt import prepare
from unmask_engine.request import (
    AudioPart,
    Begins,
    Decoding,
    Edit,
    Generation,
    GenerationRequest,
    ImagePart,
    Modality,
    Part,
    RequestError,
    Span,
    TextPart,
)
from unmask_engine.testing_fakes import ByteTokenizer, fake_bundle, script

TOKENIZER = ByteTokenizer()
VOCABULARY = TOKENIZER.vocabulary
WORDING = TextPart("on Tuesday we met")
NOISE = np.random.default_rng(7)
PICTURE = ImagePart(NOISE.integers(0, 256, (200, 300, 3), dtype=np.uint8))
RECORDING = AudioPart(NOISE.uniform(-1, 1, 44100).astype(np.float32), 22050)
IMAGE = ImagePart(np.zeros((64, 64, 3), np.uint8))


def mask(*box: int) -> np.ndarray:
    """Of PICTURE's size, True in rows and columns [top, bottom), [left, right)."""
    top, bottom, left, right = box
    made = np.zeros((200, 300), np.bool_)
    made[top:bottom, left:right] = True
    return made


def request(edit: Edit, *parts: Part, **options: object) -> GenerationRequest:
    output: Modality = "text"
    if not isinstance(edit.target, TextPart):
        output = "image" if isinstance(edit.target, ImagePart) else "audio"
    if not parts:
        parts = (IMAGE,) if output == "text" else (WORDING,)
    return GenerationRequest(parts, (output,), decoding=Decoding(**options), edit=edit)  # type: ignore[arg-type]


def made(edit: Edit) -> Generation:
    (generation,) = Engine(fake_bundle()).generate([request(edit)])
    return generation


def test_a_picture_changes_under_the_mask_alone() -> None:
    hole = mask(40, 90, 100, 130)
    generation = made(Edit(PICTURE, hole))
    assert generation.image is not None
    assert np.array_equal(generation.image.pixels[~hole], PICTURE.pixels[~hole])
    assert not np.array_equal(generation.image.pixels[hole], PICTURE.pixels[hole])


def test_tokens_outside_of_the_mask_are_pinned() -> None:
    hole = mask(40, 90, 100, 130)
    plan = prepare(fake_bundle(), request(Edit(PICTURE, hole))).plan
    cells = torch.from_numpy(touched(hole[:, 50:250], 16))
    assert (plan.canvas == plan.mask).nonzero().flatten().tolist() == (1 + cells.flatten().nonzero().flatten()).tolist()
    generation = made(Edit(PICTURE, hole))
    pins = plan.canvas != plan.mask
    assert torch.equal(torch.tensor(generation.token_ids)[pins], plan.canvas[pins])
    assert all(generation.confidence[i] is None for i in pins.nonzero().flatten())
    assert plan.steps == int(cells.sum())


def test_a_cell_is_touched_by_any_pixel_in_it() -> None:
    for side, grid in ((64, 4), (100, 16), (7, 16)):
        for row, column in ((0, 0), (side - 1, 0), (side // 2, side // 3)):
            one = np.zeros((side, side), np.bool_)
            one[row, column] = True
            rows, columns = touched(one, grid).nonzero()
            assert rows.min() == row * grid // side
            assert columns.max() == -(-(column + 1) * grid // side) - 1


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_a_recording_changes_in_the_spans_alone(rate: int) -> None:
    recording = AudioPart(NOISE.uniform(-1, 1, 2 * rate).astype(np.float32), rate)
    generation = made(Edit(recording, spans=(Span(1.5, 2.0), Span(0.25, 0.5, "tuesday"))))
    assert generation.audio is not None
    assert generation.audio.sample_rate == rate
    kept = np.ones(2 * rate, np.bool_)
    kept[rate // 4 : rate // 2] = kept[3 * rate // 2 :] = False
    assert np.array_equal(generation.audio.samples[kept], recording.samples[kept])
    assert not np.isclose(generation.audio.samples[~kept], recording.samples[~kept]).all()


def test_a_span_masks_the_tokens_that_it_touches() -> None:
    plan = prepare(fake_bundle(), request(Edit(RECORDING, spans=(Span(0.24, 0.56), Span(1.0, 1.01))))).plan
    assert (plan.canvas == plan.mask).nonzero().flatten().tolist() == [1 + token for token in (3, 4, 5, 6, 12)]
    assert len(plan.canvas) == 1 + 25 + 3


def test_new_speech_fades_in_and_out() -> None:
    silence = AudioPart(np.zeros(4000, np.float32), 2000)
    engine = Engine(replace(fake_bundle(), speech_codec=Loud()))
    (generation,) = engine.generate([request(Edit(silence, spans=(Span(0.5, 1.0),)))])
    assert generation.audio is not None
    new = generation.audio.samples[1000:2000]
    assert np.all(np.diff(new[:40]) > 0)
    assert np.all(np.diff(new[-40:]) < 0)
    assert new[:40].max() < new[40:960].min() + 1e-6


class Loud:
    """A level of one half at 2000 Hz."""

    sample_rate = 2000

    def decode(self, ids: torch.Tensor, seed: int) -> torch.Tensor:
        return torch.full((160 * len(ids),), 0.5)


def fill(target: str, answer: bytes) -> Generation:
    """What the model says, read at the canvas's positions."""
    ids = [*answer, VOCABULARY.special["im_end"], VOCABULARY.special["newline"]]
    (generation,) = Engine(fake_bundle(script(ids, VOCABULARY.size))).generate([request(Edit(TextPart(target)))])
    return generation


def test_holes_are_filled_and_the_text_around_them_stays() -> None:
    # The space before a hole is the hole's first byte.
    target = "  A [MASK:4] circle,\n\u00e9t [MASK:3]"
    answer = "  A red circle,\n\u00e9t ok".encode()
    generation = fill(target, answer)
    assert generation.text == "  A red circle,\n\u00e9t ok"
    assert not generation.truncated
    assert generation.usage.steps == 7
    assert [i for i, score in enumerate(generation.confidence) if score is not None] == [*range(3, 7), *range(19, 22)]


def test_text_comes_back_character_for_character() -> None:
    for target in (
        "[MASK:2]",
        "x[MASK:1]y",
        "\ta  [MASK:3]  b\r\n",
        "[MASK:1][MASK:2] \U0001f600",
        "<|im_end|> [MASK:2]",
    ):
        text = made(Edit(TextPart(target))).text
        assert text is not None
        at = 0
        for piece in target.replace("[MASK:1]", "\0").replace("[MASK:2]", "\0").replace("[MASK:3]", "\0").split("\0"):
            assert piece in text[at:]
            at += text[at:].index(piece) + len(piece)
        assert text.endswith(target.rpartition("]")[2])
        assert text.startswith(target.partition("[")[0])


def test_holes_take_text_only() -> None:
    generation = made(Edit(TextPart("[MASK:40]")))
    assert max(generation.token_ids[:40]) < 256


def begun(target: str, *begins: Begins | None) -> str:
    """What fills the one hole of a text, with its own beginning prescribed."""
    text = made(Edit(TextPart(target), begins=begins)).text
    assert text is not None
    before, _, after = target.partition("[MASK:8]")
    return text.removeprefix(before).removesuffix(after)


def test_a_hole_begins_with_a_number_where_it_must() -> None:
    for target in ('{"n": [MASK:8]}', "n=[MASK:8]!"):
        assert re.match(r"-?\d", begun(target, Begins(number=True)))


def test_a_hole_begins_with_one_of_some_words_where_it_must() -> None:
    assert re.match("[rs]", begun("a [MASK:8] circle", Begins(("red", "sky"))))
    assert re.match("gr[ea]", begun("a [MASK:8] circle", Begins(("green", "gray"))))
    assert re.match(r"[n\d]", begun("a: [MASK:8]", Begins(("null",), number=True)))


def test_other_holes_of_the_text_are_free() -> None:
    free = made(Edit(TextPart("[MASK:8] and [MASK:8]")))
    bound = made(Edit(TextPart("[MASK:8] and [MASK:8]"), begins=(None, Begins(number=True))))
    assert free.text != bound.text
    plan = prepare(fake_bundle(), request(Edit(TextPart("[MASK:8] and [MASK:8]"), begins=(None, Begins(("é",)))))).plan
    assert {plan.allowed[at] for at in range(8)} == {VOCABULARY.text}
    assert plan.allowed[13] == ((0xC3, 0xC4),)  # then it is known which one it is
    assert plan.allowed[14] == VOCABULARY.text


class Words(ByteTokenizer):
    """Has some tokens of its own; all else is characters."""

    def __init__(self, *tokens: str) -> None:
        super().__init__()
        self._tokens = tokens

    def encode_plain(self, text: str) -> list[int]:
        ids = []
        while text:
            known = [token for token in self._tokens if text.startswith(token)]
            ids.append(1000 + self._tokens.index(known[0]) if known else ord(text[0]))
            text = text[len(known[0]) if known else 1 :]
        return ids


def test_a_number_takes_its_sign_from_the_token_before_it() -> None:
    """As the published tokenizer has it: `: -5` is `:`, ` -`, `5`."""
    digits = frozenset(map(ord, "0123456789"))
    assert openings(Words(" -"), Begins(number=True), True) == (True, [frozenset({32, 1000}), digits])
    assert openings(Words(), Begins(number=True), True) == (False, [digits])
    assert openings(Words(" 5"), Begins(number=True), True) == (False, [digits])
    assert openings(Words(), Begins(("green", "gray", "red")), False) == (
        False,
        [frozenset(map(ord, "gr")), frozenset(map(ord, "re")), frozenset(map(ord, "ead"))],
    )
    words = Begins(("red", "green"))
    assert openings(Words(" red", " green"), words, True) == (True, [frozenset({1000, 1001})])
    assert openings(Words("red", "green"), words, True) == (False, [frozenset({1000, 1001})])


def test_a_hole_with_very_many_beginnings_is_free() -> None:
    few, many = (tuple(chr(at) for at in range(33, 33 + 2 * n, 2)) for n in (30, 40))
    for words, is_free in ((few, False), (many, True)):
        plan = prepare(fake_bundle(), request(Edit(TextPart("[MASK:2]"), begins=(Begins(words),)))).plan
        assert (plan.allowed[0] == VOCABULARY.text) == is_free


def test_an_edit_does_not_depend_on_the_batch() -> None:
    edits = [Edit(PICTURE, mask(0, 60, 60, 90)), Edit(RECORDING, spans=(Span(0.1, 0.4),)), Edit(TextPart("a [MASK:3]"))]
    requests = [request(edit) for edit in edits]
    engine = Engine(fake_bundle())
    for one, together in zip(requests, engine.generate(requests), strict=True):
        assert engine.generate([one])[0].token_ids == together.token_ids


BAD: dict[str, tuple[Edit, dict[str, Any], str]] = {
    "a mask of another size": (Edit(PICTURE, np.ones((300, 200), np.bool_)), {}, "edit.mask"),
    "an opaque mask": (Edit(PICTURE, mask(0, 0, 0, 0)), {}, "edit.mask"),
    "a mask outside of the square": (Edit(PICTURE, mask(0, 10, 0, 60)), {}, "edit.mask"),
    "a picture without a mask": (Edit(PICTURE), {}, "edit.mask"),
    "a mask on speech": (Edit(RECORDING, mask(0, 1, 0, 1), (Span(0, 1),)), {}, "edit.mask"),
    "spans on text": (Edit(TextPart("[MASK:1]"), spans=(Span(0, 1),)), {}, "edit.spans"),
    "speech without spans": (Edit(RECORDING), {}, "edit.spans"),
    "an empty span": (Edit(RECORDING, spans=(Span(1, 1),)), {}, "edit.spans"),
    "a span of no number": (Edit(RECORDING, spans=(Span(0, float("nan")),)), {}, "edit.spans"),
    "a span before the start": (Edit(RECORDING, spans=(Span(-0.5, 1),)), {}, "edit.spans"),
    "a span past the end": (Edit(RECORDING, spans=(Span(1, 2.2),)), {}, "edit.spans"),
    "overlapping spans": (Edit(RECORDING, spans=(Span(0.5, 1), Span(0, 0.6))), {}, "edit.spans"),
    "words that nobody says": (Edit(RECORDING, spans=(Span(0, 1, "Sunday"),)), {}, "edit.spans"),
    "words in another order": (Edit(RECORDING, spans=(Span(0, 1, "met"), Span(1, 2, "we"))), {}, "edit.spans"),
    "no words": (Edit(RECORDING, spans=(Span(0, 1, " "),)), {}, "edit.spans"),
    "no hole": (Edit(TextPart("all is said")), {}, "edit.target.text"),
    "an empty hole": (Edit(TextPart("[MASK:0]")), {}, "edit.target.text"),
    "a hole without a length": (Edit(TextPart("[MASK]")), {}, "edit.target.text"),
    "a hole of words": (Edit(TextPart("[MASK:x]")), {}, "edit.target.text"),
    "a hole too long": (Edit(TextPart("[MASK:99999999999999999999]")), {}, "edit.target.text"),
    "holes too long together": (Edit(TextPart("[MASK:1500] [MASK:1500]")), {}, "edit.target"),
    "a target too long": (Edit(TextPart("x" * 99_999 + "[MASK:1]")), {}, "edit.target.text"),
    "a length": (Edit(TextPart("[MASK:1]")), {"max_tokens": 64}, "decoding.max_tokens"),
    "codes anywhere": (Edit(TextPart("[MASK:1]")), {"constrain": False}, "decoding.constrain"),
    "the reference": (Edit(TextPart("[MASK:1]")), {"reference_compat": True}, "decoding.reference_compat"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_edit_is_refused_with_its_field(name: str) -> None:
    edit, options, param = BAD[name]
    with pytest.raises(RequestError) as caught:
        prepare(fake_bundle(), request(edit, **options))
    assert caught.value.param == param


def test_an_edit_needs_a_task_that_makes_its_kind_alone() -> None:
    two = GenerationRequest((RECORDING,), ("audio",), edit=Edit(RECORDING, spans=(Span(0, 1),)))
    with pytest.raises(RequestError, match="audio alone"):
        prepare(fake_bundle(), two)


def test_without_the_speech_tokenizer_speech_cannot_be_edited() -> None:
    bundle = replace(fake_bundle(), speech_tokenizer=None)
    with pytest.raises(RequestError, match="speech tokenizer"):
        prepare(bundle, request(Edit(RECORDING, spans=(Span(0, 1),))))


def test_the_built_in_model_edits_all_three() -> None:
    engine = Engine.load("unmask-mini")
    (drawn, said) = engine.generate(
        [
            GenerationRequest((TextPart("a red circle"),), ("image",)),
            GenerationRequest((TextPart("a red circle"),), ("audio",)),
        ]
    )
    assert drawn.image is not None
    assert said.audio is not None
    hole = np.zeros(drawn.image.pixels.shape[:2], np.bool_)
    hole[32:96, 32:96] = True
    edits = [
        (TextPart("a blue star"), Edit(drawn.image, hole)),
        (TextPart("a blue circle"), Edit(said.audio, spans=(Span(0.2, 0.5, "blue"),))),
        (TextPart("describe the image"), Edit(TextPart("a [MASK:1] circle"))),
    ]
    outputs: tuple[Modality, ...] = ("image", "audio", "text")
    image, audio, text = engine.generate(
        [
            GenerationRequest((wording,), (output,), edit=edit)
            for (wording, edit), output in zip(edits, outputs, strict=True)
        ]
    )
    assert image.image is not None
    assert np.array_equal(image.image.pixels[~hole], drawn.image.pixels[~hole])
    assert not np.array_equal(image.image.pixels, drawn.image.pixels)
    assert audio.audio is not None
    first, last = round(0.2 * 22050), round(0.5 * 22050)
    assert np.array_equal(audio.audio.samples[:first], said.audio.samples[:first])
    assert np.array_equal(audio.audio.samples[last:], said.audio.samples[last:])
    assert text.text is not None
    assert text.text.startswith("a ")
    assert text.text.endswith(" circle")
