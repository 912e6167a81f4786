"""Masking, tail pads and sequences of the three stages."""

import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from unmask_training.batches import EMPTY, Batch, collate, hidden_positions
from unmask_training.masking import PAD_RATIO, hide
from unmask_training.pools import Pools
from unmask_training.sequences import SPOKEN_CANVAS, SPOKEN_MARK, Sample, Writer
from unmask_training.vocabulary import AUDIO_CODES, IMAGE_CODES, TEXT_TOKENS, build_tokenizer


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


def _batch(writer: Writer, count: int, answer: int, pads: int, copied: tuple[int, int] = (0, 0)) -> Batch:
    samples = [Sample([7] * (5 + answer), 5, copied=copied) for _ in range(count)]
    return collate(samples, 5 + answer + pads, Pools(writer, [], []))


def test_one_ratio_a_sample_and_attenuated_pads(writer: Writer) -> None:
    batch = _batch(writer, 4000, answer=40, pads=40)
    hidden = hide(batch.answer, batch.pads, torch.Generator().manual_seed(0))
    assert not hidden[:, :5].any()
    ratio = hidden[:, 5:45].float().mean(1)
    pad_ratio = hidden[:, 45:].float().mean(1)
    # t ~ U(0, 1) a sample: mean 1/2 and standard deviation 1/sqrt(12), far from 1/sqrt(4 * 40) of a ratio a token.
    assert float(ratio.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(ratio.std()) == pytest.approx(0.29 + 0.008, abs=0.02)
    assert float(pad_ratio.mean()) == pytest.approx(PAD_RATIO * 0.5, abs=0.02)
    assert float(torch.corrcoef(torch.stack([ratio, pad_ratio]))[0, 1]) > 0.8


def test_every_sample_has_something_to_learn(writer: Writer) -> None:
    batch = _batch(writer, 500, answer=1, pads=1)
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
    batch = collate([sample], len(sample.ids) + 3, Pools(writer, [], []))
    learnt = [i for i, known in zip(sample.ids, batch.answer[0].tolist(), strict=False) if known]
    end = [writer.id("<|im_end|>"), *writer.text("\n")]
    assert learnt == [i for _, answer in asked for i in (*writer.text(answer), *end)]
    assert sample.ids.count(writer.id("<|begin_of_image|>")) == 1
    alone = writer.image_questions(asked[:1], [5] * 64)
    assert sample.ids[: len(alone.ids)] == alone.ids


def test_a_share_of_what_says_the_prompt_again_starts_from_an_empty_canvas(writer: Writer) -> None:
    batch = _batch(writer, 2000, answer=20, pads=4, copied=(6, 22))
    hidden = hidden_positions(batch, torch.Generator().manual_seed(2))
    assert not hidden[:, :5].any()
    assert float(hidden[:, 6:22].all(1).float().mean()) == pytest.approx(EMPTY, abs=0.06)
    assert float(hidden[:, 22:25].all(1).float().mean()) < 0.4  # what is not copied is hidden as ever
