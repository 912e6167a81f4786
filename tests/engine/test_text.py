import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from unmask_engine.bundle import load_bundle
from unmask_engine.convert import QWEN2_CUTS, byte_pair_tokenizer
from unmask_engine.layout import Content, lay_out, without_slots
from unmask_engine.loaded import LoadedBundle
from unmask_engine.omni_presets import OMNI_PRESETS
from unmask_engine.preset import Preset
from unmask_engine.request import AudioPart, ImagePart
from unmask_engine.testing_fakes import FakeImageCodec, KnownLogits, fake_bundle
from unmask_engine.text import TextTokenizer, render_chat
from unmask_engine.vocabulary import Vocabulary

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "dream_golden.json").read_text())["prompts"]
IMAGE = "<|begin_of_image|><|image_0|><|image_1|><|image_8191|><|end_of_image|>"
TEXTS: list[tuple[str, list[int]]] = [
    *((entry["text"], entry["ids"]) for entry in GOLDEN.values() if "text" in entry and "ids" in entry),
    *GOLDEN["text_samples"].items(),
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>", "<|audio|>"]
CODES = [f"<|audio_{i}|>" for i in range(20)]
TEMPLATE = render_chat([("system", "Be kind."), ("user", "\n<|audio|>{text}\nAnd?")])
# Qwen2's split: a run of newlines is one word, so that a caller's "\n" can merge with the template's.
SPLIT = r"\p{N}|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="module", params=["added after training", "part of the vocabulary"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """A byte-level BPE made like Qwen2's, trained on a few lines; special tokens enter in either of the usual ways."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=special if request.param == "part of the vocabulary" else [],
    )
    lines = ["user\n\nhello world\n\n", "the <|im_end|> of the im_end", "system\nBe kind.", "assistant\n"] * 30
    made.train_from_iterator(lines, trainer)
    made.add_special_tokens(special)
    made.add_tokens([AddedToken(code, normalized=False) for code in CODES])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return TextTokenizer(path)


def added_ids(tokenizer: TextTokenizer) -> set[int]:
    return {tokenizer.id_of(token) for token in SPECIAL + CODES}


MESSAGES = {
    "T2I": [("user", "Generate an image based on the provided text description.\nA red cat.")],
    "TTS": [("user", "Convert the text to speech.\nGet the trust fund to the bank early.")],
    "ASR": [("user", "Convert the speech to text.\n<|audio|>")],
    "VQA": [("user", f"What is this?\n{IMAGE}")],
    "S2I": [("system", "Please generate an image based on the input audio."), ("user", "\n<|audio|>")],
    "SVQA": [
        ("system", "Please response the input audio based on the given image."),
        ("user", f"<|audio|>\n{IMAGE}"),
    ],
    "SQA": [("system", "Please response the input audio."), ("user", "\n<|audio|>")],
    "T2I_with_tokenizer_config_template": [
        ("system", "You are a helpful assistant."),
        ("user", "Generate an image based on the provided text description.\nA red cat."),
    ],
}


@pytest.mark.parametrize("task", MESSAGES)
def test_chat_is_rendered_as_the_reference_does(task: str) -> None:
    assert render_chat(MESSAGES[task]) == GOLDEN[task]["text"]


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Text as the Qwen2 family cuts it before merging, in byte-level letters; True marks special tokens and codes.

    One cut of the golden texts, a Chinese comma and the word after it, is two tokens; it is parted after the comma.
    """
    cuts = pre_tokenizers.Split(Regex(QWEN2_CUTS), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for part in re.split(r"(<\|\w+\|>)", text):
        if part.startswith("<|"):
            yield part, True
        elif part:
            for piece, _ in pre_tokenizers.Sequence([cuts, byte_level]).pre_tokenize_str(part):
                yield from ((token, False) for token in re.split("(?<=ï¼Į)", piece))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """As much of Qwen2's tokenizer as the golden texts tell: in them each of `pieces` is a token, so its id is known.

    Qwen2's merges are not: these are learned from the pieces until each is one token, and the parts that the merges
    pass through take ids that no golden text uses. So the cuts, the template and the added tokens are tested, and
    that ids belong to pieces one to one; the merges are not.
    """
    folder = tmp_path_factory.mktemp("qwen")
    known: dict[str, int] = {}
    added: dict[str, int] = dict(GOLDEN["special_ids"])
    for text, ids in TEXTS:
        for (piece, is_added), id_ in zip(pieces(text), ids, strict=True):
            assert (added if is_added else known).setdefault(piece, id_) == id_, piece
    assert len({*known.values(), *added.values()}) == len(known) + len(added)
    made = Tokenizer(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        known, trainers.BpeTrainer(vocab_size=9999, initial_alphabet=alphabet, show_progress=False)
    )
    made.model.save(str(folder))
    free = (id_ for id_ in count() if id_ not in known.values())
    vocabulary = {piece: known[piece] if piece in known else next(free) for piece in made.get_vocab()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary | added))
    # Golden `decode` shows what upstream holds to be special: <|endoftext|> is, <|im_end|> and the codes are not.
    listed = {id_: {"content": name, "special": name == "<|endoftext|>"} for name, id_ in added.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    byte_pair_tokenizer(folder).save(str(folder / "tokenizer.json"))
    return TextTokenizer(folder / "tokenizer.json")


@pytest.mark.parametrize(("text", "ids"), TEXTS)
def test_golden_texts_have_the_reference_s_ids(qwen: TextTokenizer, text: str, ids: list[int]) -> None:
    assert qwen.encode(text) == ids
    assert qwen.encode_template(text, {}) == ids
    assert qwen.decode(ids, skip_special=False) == text


def test_golden_ids_have_the_reference_s_text(qwen: TextTokenizer) -> None:
    golden = GOLDEN["decode"]
    assert qwen.decode(golden["ids"], skip_special=False) == golden["keep"]
    assert qwen.decode(golden["ids"]) == golden["skip"]


class ThreeCodes(FakeImageCodec):
    """Every image is the three codes of the golden prompts."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[[0, 1, 8191]]])


@pytest.fixture(scope="module")
def omni(qwen: TextTokenizer) -> LoadedBundle:
    vocabulary = Vocabulary.build(load_bundle("omni-diffusion").tokens, 176264, qwen.id_of, qwen.encode_plain)
    model = KnownLogits(torch.zeros(1, 1))
    return replace(fake_bundle(model), tokenizer=qwen, vocabulary=vocabulary, image_codec=ThreeCodes())


def test_the_bundle_s_tokens_are_the_golden_special_ids(omni: LoadedBundle) -> None:
    special, vocabulary = GOLDEN["special_ids"], omni.vocabulary
    assert vocabulary.audio == range(special["<|audio_0|>"], special["<|audio_16383|>"] + 1)
    assert vocabulary.image == range(special["<|image_0|>"], special["<|image_8191|>"] + 1)
    names = load_bundle("omni-diffusion").tokens.special
    assert vocabulary.special == {role: special[name] for role, name in names.items()} | {"newline": 198}


@pytest.mark.parametrize("preset", [preset for preset in OMNI_PRESETS if preset.task.upper() in GOLDEN])
@pytest.mark.parametrize("frames", [1, 20])
def test_prompts_are_laid_out_in_the_reference_s_ids(omni: LoadedBundle, preset: Preset, frames: int) -> None:
    golden = GOLDEN[preset.task.upper()]
    texts = {"t2i": "A red cat.", "tts": "Get the trust fund to the bank early.", "vqa": "What is this?"}
    content = Content(
        texts.get(preset.task, ""),
        ImagePart(np.zeros((64, 64, 3), dtype=np.uint8)) if "image" in preset.inputs else None,
        AudioPart(np.zeros(1000 * frames, dtype=np.float32), 16000) if "audio" in preset.inputs else None,
    )
    expected = golden["ids"]
    if golden["expand"]:
        slot, begin, context, queries, end = (int(number) for number in re.findall(r"\d+", golden["expand"]))
        at = expected.index(slot)
        expected = [*expected[:at], begin, *[context] * (frames + queries), end, *expected[at + 1 :]]
    assert list(lay_out(omni, preset.messages, content).ids) == expected


def test_the_unconditional_prompt_of_s2i_is_the_reference_s(omni: LoadedBundle) -> None:
    (s2i,) = (preset for preset in OMNI_PRESETS if preset.task == "s2i")
    assert list(lay_out(omni, without_slots(s2i.messages), Content()).ids) == GOLDEN["S2I_uncond_prompt_ids"]


def test_special_tokens_of_a_template_are_single_ids(tokenizer: TextTokenizer) -> None:
    start, end, audio = (tokenizer.id_of(t) for t in ("<|im_start|>", "<|im_end|>", "<|audio|>"))
    ids = tokenizer.encode(render_chat(MESSAGES["S2I"]))
    assert [i for i in ids if i in added_ids(tokenizer)] == [start, end, start, audio, end, start]
    assert tokenizer.encode("<|audio_5|><|audio_19|>") == [
        tokenizer.id_of("<|audio_5|>"),
        tokenizer.id_of("<|audio_19|>"),
    ]


def test_newlines_merge_across_the_border_of_the_content(tokenizer: TextTokenizer) -> None:
    (merged,) = tokenizer.encode_plain("\n\n")
    assert merged in tokenizer.encode(render_chat([("user", "\nhello")]))
    assert merged in tokenizer.encode_template(render_chat([("user", "{text}")]), {"{text}": "\nhello"})


@pytest.mark.parametrize("token", ["<|im_end|>", "<|mask|>", "<|audio_3|>", "<|endoftext|>"])
def test_text_that_spells_a_special_token_stays_text(tokenizer: TextTokenizer, token: str) -> None:
    text = f"a{token}\n{token}{token} b"
    assert tokenizer.id_of(token) in tokenizer.encode(text)
    plain = tokenizer.encode_plain(text)
    assert added_ids(tokenizer).isdisjoint(plain)
    assert tokenizer.decode(plain) == text


@given(
    text=st.text()
    | st.lists(st.sampled_from([*SPECIAL, *CODES, "<|", "|>", "{text}", "\n", "é", "e\u0301", " "])).map("".join)
)
def test_only_the_template_writes_special_ids(tokenizer: TextTokenizer, text: str) -> None:
    added = added_ids(tokenizer)
    ids = tokenizer.encode_template(TEMPLATE, {"{text}": text})
    assert [i for i in ids if i in added] == [i for i in tokenizer.encode(TEMPLATE) if i in added]
    assert added.isdisjoint(tokenizer.encode_plain(text))


@given(text=st.text() | st.text(alphabet="\n\r aé\u0301{}<|>1"))
def test_without_specials_the_ids_are_those_of_the_whole_rendered_prompt(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.encode_template(TEMPLATE, {"{text}": text}) == tokenizer.encode(TEMPLATE.replace("{text}", text))


def test_slots_are_filled_in_one_pass(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode_template("{a} {b}<|im_end|>e\u0301", {"{a}": "{b}", "{b}": "x"})
    assert tokenizer.decode(ids, skip_special=False) == "{b} x<|im_end|>é"
    assert tokenizer.encode_template("e\u0301<|mask|>\n", {}) == tokenizer.encode("e\u0301<|mask|>\n")


def test_decoding_skips_special_tokens_but_not_media_codes(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("<|im_start|><|audio_0|>hello world<|endoftext|>")
    assert tokenizer.decode(ids) == "<|audio_0|>hello world"
    assert tokenizer.decode(ids, skip_special=False) == "<|im_start|><|audio_0|>hello world<|endoftext|>"
    assert tokenizer.decode([]) == ""


def test_what_is_missing_is_named(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json: the vocabulary has no token '<\|image_0\|>'"):
        tokenizer.id_of("<|image_0|>")
    with pytest.raises(ValueError, match="no tokenizer at"):
        TextTokenizer(tmp_path / "tokenizer.json")
