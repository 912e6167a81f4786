"""Masking, tail pads and sequences of the three stages."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from unmask_training.grounding import IGNORED, NAMED, patch_labels
from unmask_training.masking import PAD_RATIO, hide
from unmask_training.sequences import SPOKEN_CANVAS, SPOKEN_MARK, Sample, Writer
from unmask_training.train_backbone import Batch, collate
from unmask_training.vocabulary import AUDIO_CODES, IMAGE_CODES, TEXT_TOKENS, build_tokenizer
from unmask_training.world import SHAPES, Scene, Thing


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return build_tokenizer(0, tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


@pytest.fixture
def writer(tokenizer: Tokenizer) -> Writer:
    return Writer(tokenizer, [11, 20])


def test_the_vocabulary_has_text_then_specials_then_codes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert tokenizer.token_to_id("<|endoftext|>") == TEXT_TOKENS
    first_audio, first_image = tokenizer.token_to_id("<|audio_0|>"), tokenizer.token_to_id("<|image_0|>")
    assert first_image == first_audio + AUDIO_CODES
    assert tokenizer.get_vocab_size() == first_image + IMAGE_CODES
    again = build_tokenizer(0, tmp_path / "again.json")
    assert again.to_str() == tokenizer.to_str()
    text = "Draw an ünknown wörd, 42 times!\n\n<b>"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_spoken_sample_has_its_mark_where_the_preset_pins_it(writer: Writer) -> None:
    sample = writer.spoken(1, "a red circle", [1, 2, 3], image=[5] * 64)
    answer = sample.ids[sample.answer_start :]
    assert answer[SPOKEN_MARK] == writer.id("<|begin_of_audio|>")
    assert int(0.2 * SPOKEN_CANVAS) == SPOKEN_MARK
    rows = sample.ids[sample.speech_start : sample.speech_start + 20]
    assert rows == [writer.id("<|context_of_audio|>")] * 20
    assert sample.ids[sample.speech_start + 20] == writer.id("<|end_of_audio|>")
    with pytest.raises(ValueError, match="too long"):
        writer.spoken(1, "a " * 40, [], None)


def _batch(count: int, answer: int, pads: int) -> Batch:
    samples = [Sample([7] * (5 + answer), 5) for _ in range(count)]
    return collate(samples, 5 + answer + pads, pad=0)


def test_one_ratio_a_sample_and_attenuated_pads() -> None:
    batch = _batch(4000, answer=40, pads=40)
    hidden = hide(batch.answer, batch.pads, torch.Generator().manual_seed(0))
    assert not hidden[:, :5].any()
    ratio = hidden[:, 5:45].float().mean(1)
    pad_ratio = hidden[:, 45:].float().mean(1)
    # t ~ U(0, 1) a sample: mean 1/2 and standard deviation 1/sqrt(12), far from 1/sqrt(4 * 40) of a ratio a token.
    assert float(ratio.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(ratio.std()) == pytest.approx(0.29 + 0.008, abs=0.02)
    assert float(pad_ratio.mean()) == pytest.approx(PAD_RATIO * 0.5, abs=0.02)
    assert float(torch.corrcoef(torch.stack([ratio, pad_ratio]))[0, 1]) > 0.8


def test_every_sample_has_something_to_learn() -> None:
    batch = _batch(500, answer=1, pads=1)
    hidden = hide(batch.answer, batch.pads, torch.Generator().manual_seed(1))
    assert hidden.any(1).all()


def test_image_codes_and_text_have_ids_of_their_own(writer: Writer) -> None:
    rng = random.Random(0)
    sample = writer.text_to_image("a red circle", list(range(64)), rng)
    answer = sample.ids[sample.answer_start :]
    assert len(answer) == 68
    assert answer[1:65] == [writer.id("<|image_0|>") + i for i in range(64)]
    assert answer[-2:] == [writer.id("<|im_end|>"), *writer.text("\n")]


def test_every_answer_of_a_conversation_is_learnt_and_no_question(writer: Writer) -> None:
    asked = [("what shape is it", "star"), ("what color is it", "red"), ("how big is the star", "large")]
    sample = writer.image_questions(asked, [5] * 64)
    batch = collate([sample], len(sample.ids) + 3, pad=writer.pad)
    learnt = [i for i, known in zip(sample.ids, batch.answer[0].tolist(), strict=False) if known]
    end = [writer.id("<|im_end|>"), *writer.text("\n")]
    assert learnt == [i for _, answer in asked for i in (*writer.text(answer), *end)]
    assert sample.ids.count(writer.id("<|begin_of_image|>")) == 1
    alone = writer.image_questions(asked[:1], [5] * 64)
    assert sample.ids[: len(alone.ids)] == alone.ids


def test_patches_are_labelled_by_the_thing_that_covers_them() -> None:
    star = Thing("star", "blue", "small", 0.27, 0.27, 0.14)
    heart = Thing("heart", "red", "large", 0.75, 0.75, 0.2)
    labels = patch_labels(Scene((star, heart), "white", "free"), 8)
    names = [tuple(NAMED).index(n) for n in ("shape", "color", "place", "size", "count")]
    assert names == [0, 1, 2, 3, 4]
    assert labels[2 * 8 + 2] == (SHAPES.index("star") + 1, 3, 1, 1, 2)
    assert labels[6 * 8 + 6] == (SHAPES.index("heart") + 1, 1, 9, 2, 2)
    assert labels[7] == (0, 0, 0, 0, 2)
    assert all(0 <= c < n for label in labels for c, n in zip(label, NAMED.values(), strict=True))


def test_only_a_known_picture_is_grounded(writer: Writer) -> None:
    scene = Scene((Thing("star", "blue", "large", 0.5, 0.5, 0.2),), "white", "free")
    sample = replace(writer.image_questions([("what is blue", "star")], [5] * 64), scene=scene)
    unknown = writer.image_questions([("what is blue", "star")], [5] * 64)
    batch = collate([sample, unknown], len(sample.ids) + 2, writer.pad)
    known = (batch.patches[0, :, 0] != IGNORED).nonzero().flatten().tolist()
    first = sample.ids.index(writer.id("<|begin_of_image|>")) + 1
    assert known == list(range(first, first + 64))
    assert bool((batch.patches[1] == IGNORED).all())
