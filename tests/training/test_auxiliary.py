"""Labels of rows, and the heads that name them while the backbone trains."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer

from unmask_engine.models.backbone import BackboneConfig
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoderConfig
from unmask_training.auxiliary import Auxiliary, Labels
from unmask_training.corpus import SLOT_TOKENS
from unmask_training.grounding import NAMED, patch_labels
from unmask_training.naming import IGNORED
from unmask_training.referring import question_labels, word_ids
from unmask_training.sequences import SPOKEN_MARK, Writer
from unmask_training.slot_heads import heard_labels, slot_labels
from unmask_training.vocabulary import build_tokenizer
from unmask_training.world import BACKGROUNDS, SHAPES, Scene, Thing

STAR = Thing("star", "blue", "small", 0.27, 0.27, 0.14)
HEART = Thing("heart", "red", "large", 0.75, 0.75, 0.2)
SCENE = Scene((STAR, HEART), "white", "free")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return build_tokenizer(0, tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


@pytest.fixture
def writer(tokenizer: Tokenizer) -> Writer:
    return Writer(tokenizer, [11, 20])


def test_a_slot_is_labelled_with_its_number_and_its_word(tokenizer: Tokenizer) -> None:
    writer = Writer(tokenizer, [11])
    codes = list(range(3 * SLOT_TOKENS))
    sample = writer.synthesis("a red circle", codes)
    assert sample.spoken is not None
    number, word = slot_labels(sample.ids, *sample.spoken)
    text_start, first, _ = sample.spoken
    assert tokenizer.decode(sample.ids[text_start : text_start + 3]) == "a red circle"
    assert number[text_start : text_start + 3].tolist() == [0, 1, 2]
    for slot, token in enumerate(sample.ids[text_start : text_start + 3]):
        for at in range(first + slot * SLOT_TOKENS, first + (slot + 1) * SLOT_TOKENS):
            assert sample.ids[at] == writer.id("<|audio_0|>") + at - first
            assert (number[at - 1].item(), word[at - 1].item()) == (slot, token)  # the row that predicts the code
    assert (word != IGNORED).sum() == len(codes)
    assert (number != IGNORED).sum() == len(codes) + 3

    spoken = writer.spoken(0, "a red circle", codes, image=[5] * 64)
    assert spoken.spoken is not None
    number, word = slot_labels(spoken.ids, *spoken.spoken)
    start = spoken.answer_start
    assert number[start : start + 3].tolist() == [0, 1, 2]
    assert number[start + SPOKEN_MARK].item() == 0  # the mark predicts the first code


def test_what_is_heard_is_numbered_where_it_is_understood() -> None:
    understood = [(3, 70), (5, 71), (9, 72)]
    number, word = heard_labels(20, understood, [70, 71, 72], answer_start=12)
    assert number.tolist() == [-1, -1, -1, 0, -1, 1, -1, -1, -1, 2, -1, 0, 1, 2, -1, -1, -1, -1, -1, -1]
    assert word[11:14].tolist() == [70, 71, 72]  # the row before a token predicts it
    number, word = heard_labels(20, [(3, 70), (9, 99)], [70, 71, 72], answer_start=12)
    assert number[:11].eq(IGNORED).all()
    assert word[11:14].tolist() == [70, 71, 72]


def test_patches_are_labelled_by_the_thing_that_covers_them() -> None:
    labels = patch_labels(SCENE, 8)
    assert tuple(NAMED) == ("shape", "color", "place", "size", "count", "background")
    white = tuple(BACKGROUNDS).index("white")
    assert labels[2 * 8 + 2] == (SHAPES.index("star") + 1, 3, 1, 1, 2, white)
    assert labels[6 * 8 + 6] == (SHAPES.index("heart") + 1, 1, 9, 2, 2, white)
    assert labels[7] == (0, 0, 0, 0, 2, white)
    for number, background in enumerate(BACKGROUNDS):  # every patch tells it, a thing on it or not
        assert {label[-1] for label in patch_labels(replace(SCENE, background=background), 8)} == {number}
    assert all(0 <= c < n for label in labels for c, n in zip(label, NAMED.values(), strict=True))


@pytest.mark.parametrize(
    ("question", "named", "thing"),
    [
        ("what color is the star", 1, STAR),
        ("Where is the heart?", 1, HEART),
        ("what is red", 1, HEART),
        ("is there a blue star", 2, STAR),
        ("is there a red star", 2, None),
        ("what is left of the heart", 1, STAR),
        ("what color is the background", 0, None),
        ("how many shapes are there", 0, None),
    ],
)
def test_the_words_of_a_question_point_to_its_thing(
    tokenizer: Tokenizer, question: str, named: int, thing: Thing | None
) -> None:
    ids = tokenizer.encode(f"<|im_start|>user\n{question}<|im_end|>").ids
    labels = question_labels(list(enumerate(ids)), SCENE, word_ids(tokenizer))
    assert len(labels) == named
    for position, classes in labels.items():
        assert tokenizer.decode([ids[position]]).strip() in question
        if thing is None:
            assert classes == (IGNORED, IGNORED, IGNORED, IGNORED, 0)
        else:
            assert classes[:2] == (SHAPES.index(thing.shape) + 1, {"blue": 3, "red": 1}[thing.color])
            assert classes[-1] == 1


def test_an_ambiguous_question_points_nowhere(tokenizer: Tokenizer) -> None:
    scene = Scene((STAR, replace(STAR, color="red", x=0.7)), "white", "free")
    ids = tokenizer.encode("where is the star").ids
    assert question_labels(list(enumerate(ids)), scene, word_ids(tokenizer)) == {}


def test_only_a_known_picture_is_grounded(writer: Writer, tokenizer: Tokenizer) -> None:
    unknown = writer.image_questions([("what is blue", "star"), ("where is the heart", "bottom right")], [5] * 64)
    sample = replace(unknown, scene=SCENE)
    labels = Labels.of([sample, unknown], len(sample.ids) + 2, [], word_ids(tokenizer))
    known = labels.patches.rows.tolist()
    first = sample.ids.index(writer.id("<|begin_of_image|>")) + 1
    assert known == list(range(first, first + 64))
    asked = [
        row
        for row, classes in zip(labels.asked.rows.tolist(), labels.asked.classes, strict=True)
        if classes[0] != IGNORED
    ]
    assert tokenizer.decode([sample.ids[i] for i in asked]) == " blue heart"  # not those of the answers


def test_the_heads_learn_from_the_rows_they_are_told_of(writer: Writer, tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    config = BackboneConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_layers=5, num_heads=2,
        num_kv_heads=1,
    )  # fmt: skip
    speech = SpeechEncoderConfig(size=32, num_heads=2, ffn_size=32, num_layers=2, num_tp_layers=1, ctc_vocab=5)
    omni = OmniModel(config, speech)
    heads = Auxiliary(omni)
    question = replace(writer.image_questions([("what is blue", "star")], [5] * 64), scene=SCENE)
    said = writer.synthesis("a red circle", list(range(3 * SLOT_TOKENS)))
    heard = writer.recognition(0, "a star")
    rows = [list(zip((5, 8), writer.text("a star"), strict=True))]
    for sample, busy in ((question, {"seeing", "asked"}), (said, {"spoken"}), (heard, {"heard"})):
        omni.forward_packed(omni.embed(torch.tensor(sample.ids)), [len(sample.ids)])
        losses = heads.losses(Labels.of([sample], len(sample.ids), rows, word_ids(tokenizer)))
        assert {name for name, loss in losses.items() if loss.item() > 0} == busy
        torch.stack(list(losses.values())).sum().backward()
    for module in (heads.grounding, heads.referring, heads.spoken, heads.heard):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
