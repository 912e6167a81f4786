import pytest

from unmask_engine.answer import Answer, split
from unmask_engine.testing_fakes import ByteTokenizer

VOCABULARY = ByteTokenizer().vocabulary
S = VOCABULARY.special
BOA, EOA, BOI, EOI, END, PAD, MASK, NL = (
    S[role]
    for role in ("begin_of_audio", "end_of_audio", "begin_of_image", "end_of_image", "im_end", "pad", "mask", "newline")
)
A = VOCABULARY.audio.start
I = VOCABULARY.image.start  # noqa: E741


@pytest.mark.parametrize(
    ("canvas", "expected"),
    [
        ([65, 66, END, NL, PAD], Answer((65, 66), (0, 1), (), (), truncated=False)),
        ([65, 66, 67], Answer((65, 66, 67), (0, 1, 2), (), (), truncated=True)),
        ([END, 65], Answer((), (), (), (), truncated=False)),
        ([65, A + 1, 66, I + 1, PAD, END], Answer((65, 66), (0, 2), (), (), truncated=False)),
        ([65, MASK, 66, END], Answer((65,), (0,), (), (), truncated=False)),
    ],
)
def test_text(canvas: list[int], expected: Answer) -> None:
    assert split(canvas, VOCABULARY, ["text"], 4) == expected


@pytest.mark.parametrize(
    ("canvas", "codes", "truncated"),
    [
        ([BOA, A + 1, A + 2, EOA, END, NL], (1, 2), False),
        ([A + 1, A + 2, END], (1, 2), False),  # without its frame
        ([BOA, A + 1, A + 2, A + 3], (1, 2, 3), True),
        ([BOA, A + 1, 65, A + 3, EOA, END], (1, 1, 3), False),  # a stray id keeps the others' time
        ([BOA, I + 4, A + 3, EOA, END], (3, 3), False),
        ([BOA, A + 5, MASK, A + 6, EOA, END], (5,), False),  # cancelled: the committed beginning
        ([BOA, EOA, END], (), False),
        ([65, 66, END], (), False),
    ],
)
def test_speech(canvas: list[int], codes: tuple[int, ...], truncated: bool) -> None:
    assert split(canvas, VOCABULARY, ["audio"], 4) == Answer((), (), codes, (), truncated)


@pytest.mark.parametrize(
    ("canvas", "text", "text_at", "codes"),
    [
        ([65, NL, BOA, A, A + 9, EOA, END], (65, NL), (0, 1), (0, 9)),
        ([65, END, BOA, A + 9, EOA, END], (65,), (0,), (9,)),  # an end mark before the speech ends the text alone
        ([65, PAD, BOA, A + 9, A + 8, END], (65,), (0,), (9, 8)),
        ([BOA, 65, BOA, A + 9, EOA, END], (65,), (1,), (9,)),  # the pinned begin counts, not a stray one
    ],
)
def test_spoken_answer(
    canvas: list[int], text: tuple[int, ...], text_at: tuple[int, ...], codes: tuple[int, ...]
) -> None:
    expected = Answer(text, text_at, codes, (), truncated=False)
    assert split(canvas, VOCABULARY, ["text", "audio"], 4, end_from=2) == expected


@pytest.mark.parametrize(
    ("canvas", "codes"),
    [
        ([BOI, I, I + 1, I + 2, I + 3, EOI, END, NL], (0, 1, 2, 3)),
        ([BOI, I, 65, A, I + 3, EOI, END, NL], (0, 0, 0, 3)),
        ([BOI, 65, I + 1, I + 2, I + 3, EOI, END, NL], (1, 1, 2, 3)),
        ([BOI, I, I + 1, END], (0, 1, 1, 1)),  # the last one is repeated
        ([I, I + 1, I + 2, I + 3, I + 4, END], (0, 1, 2, 3)),
        ([65, 66, END], (0, 0, 0, 0)),
    ],
)
def test_image_always_has_all_its_codes(canvas: list[int], codes: tuple[int, ...]) -> None:
    assert split(canvas, VOCABULARY, ["image"], 4) == Answer((), (), (), codes, truncated=False)
