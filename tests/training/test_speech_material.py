"""What the small model speaks with and hears: words as single tokens, in slots; tables that follow a new tokenizer."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from unmask_training import vocabulary
from unmask_training.corpus import SLOT_TOKENS, word_recordings
from unmask_training.fit_speech import said_by_lexicon
from unmask_training.language import words
from unmask_training.train_ears import BLANK
from unmask_training.vocabulary import IMAGE_CODES, TEXT_TOKENS, build_tokenizer
from unmask_training.voices import add_room, reverberant, trimmed
from unmask_training.warm_start import with_new_images, with_tokens


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return build_tokenizer(0, tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


def test_every_word_is_one_token(tokenizer: Tokenizer) -> None:
    assert [w for w in words() if len(tokenizer.encode(f" {w}").ids) != 1] == []


def test_a_new_tokenizer_takes_over_what_the_old_one_learnt(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "TEXT_TOKENS", 400)
    old = build_tokenizer(0, tmp_path / "tokenizer.json")
    table = torch.arange(old.get_vocab_size() * 2.0).view(-1, 2)
    ears = "model.audio_model.model.ctc.ctc_lo.weight"
    weights = {"model.embed_tokens.weight": table, "lm_head.weight": table + 1, ears: torch.arange(401.0)[:, None]}
    made = with_tokens(weights | {"model.norm.weight": torch.ones(2)}, old, tokenizer)

    for same in ("a", "<|mask|>", "<|image_7|>"):
        was, now = old.token_to_id(same), tokenizer.token_to_id(same)
        assert torch.equal(made["model.embed_tokens.weight"][now], table[was])
    word, pieces = tokenizer.token_to_id("Ġcomputer"), old.encode(" computer").ids
    assert len(pieces) > 1
    assert torch.equal(made["lm_head.weight"][word], (table + 1)[pieces].mean(0))
    assert made[ears].shape == (TEXT_TOKENS + 1, 1)
    assert made[ears][BLANK].item() == BLANK
    assert made[ears][word + 1].item() == pytest.approx(np.mean(pieces) + 1)
    assert torch.equal(made["model.norm.weight"], torch.ones(2))


def test_new_image_codes_are_all_that_is_forgotten(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    table = torch.ones(tokenizer.get_vocab_size(), 4)
    weights = {"model.embed_tokens.weight": table, "lm_head.weight": table * 2, "model.norm.weight": torch.ones(4)}
    made = with_new_images(weights, tokenizer)
    first = tokenizer.token_to_id("<|image_0|>")
    codes = slice(first, first + IMAGE_CODES)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert 0.015 < float(made[name][codes].std()) < 0.025
        assert torch.equal(made[name][:first], weights[name][:first])
        assert torch.equal(made[name][codes.stop :], weights[name][codes.stop :])
    assert torch.equal(made["model.norm.weight"], weights["model.norm.weight"])
    assert torch.equal(table, torch.ones_like(table))  # the given ones stay


def test_an_utterance_of_the_lexicon_is_its_words_codes_and_sounds() -> None:
    lexicon = {"a": [1, 2], "b": [3, 4]}
    sounds = {"a": np.full(3, 0.1, np.float32), "b": np.full(3, 0.2, np.float32)}
    (codes, *_), (samples, *_) = said_by_lexicon(lexicon, sounds, 2, seed=0)
    spoken = ["a" if c == 1 else "b" for c in codes[::2].tolist()]
    assert codes.tolist() == [c for w in spoken for c in lexicon[w]]
    np.testing.assert_array_equal(samples, np.concatenate([sounds[w] for w in spoken]))


def test_trimming_keeps_the_sound() -> None:
    sound = np.sin(np.arange(3000) * 0.1).astype(np.float32)
    padded = np.pad(sound, 5000)
    assert 3000 <= len(trimmed(padded)) <= 4200
    assert len(trimmed(np.zeros(100, np.float32))) == 100


def test_a_room_echoes_and_fades() -> None:
    click = np.zeros(16_000, np.float32)
    click[1000] = 1.0
    heard = reverberant(click, decay_s=0.3, echoes=0.4, rng=np.random.default_rng(0))
    assert len(heard) == len(click)
    assert heard[1000] == np.abs(heard).max() == pytest.approx(1.4**-0.5, rel=1e-3)
    assert np.abs(heard[:1000]).max() < 1e-4  # nothing is heard before it is said
    energy = [float(np.square(heard[a : a + 800]).sum()) for a in (1001, 2601, 4201)]
    assert energy[0] > 10 * energy[1] > 100 * energy[2] > 0
    assert np.abs(heard[1000 + 4800 + 1 :]).max() < 1e-4
    assert float(np.square(heard).sum()) == pytest.approx(1.0, rel=1e-3)


def test_some_recordings_are_heard_with_echoes() -> None:
    click = np.zeros(4000, np.float32)
    click[:10] = 0.5
    tails = []
    for seed in range(40):
        heard = add_room(click, np.random.default_rng(seed))
        peak = int(np.abs(heard).argmax())
        assert np.abs(heard).max() <= 1
        tails.append(float(np.std(heard[peak + 20 : peak + 400]) / np.std(heard[peak + 2000 : peak + 3500])))
    assert 8 <= sum(tail > 1.5 for tail in tails) <= 32


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite")
def test_every_word_is_said_within_its_slot() -> None:
    recordings = word_recordings(16_000)
    assert set(recordings) == set(words())
    assert {len(r) for r in recordings.values()} == {SLOT_TOKENS * 1280}
    assert all(np.abs(r).max() > 0.1 for r in recordings.values())
    assert all(np.abs(r[-320:]).max() < 0.05 for r in recordings.values())  # silence before the next word
