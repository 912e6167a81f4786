import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from unmask_engine.text import TextTokenizer, render_chat

GOLDEN = Path(__file__).parents[1] / "golden"
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
    "S2I": [("system", "Please generate an image based on the input audio."), ("user", "\n<|audio|>")],
    "SQA": [("system", "Please response the input audio."), ("user", "\n<|audio|>")],
}


@pytest.mark.parametrize("task", MESSAGES)
def test_chat_is_rendered_as_the_reference_does(task: str) -> None:
    golden = json.loads((GOLDEN / "dream_golden.json").read_text())["prompts"]
    assert render_chat(MESSAGES[task]) == golden[task]["text"]


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
