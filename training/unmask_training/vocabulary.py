"""Builds the small model's tokenizer.json: a byte-level BPE on the world's sentences, then every special token."""

import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from unmask_training.language import SMALL_TALK, all_questions, as_typed, sentence, words
from unmask_training.templates import INSTRUCTIONS
from unmask_training.world import describable_scene, free_scene

TEXT_TOKENS = 1024  # enough for every word of the world to be one token, after a space or not
AUDIO_CODES = 1024
IMAGE_CODES = 4096
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>",
    "<|begin_of_image|>", "<|end_of_image|>", "<|context_of_image|>", "<|image|>",
    "<|begin_of_audio|>", "<|end_of_audio|>", "<|context_of_audio|>", "<|audio|>",
)  # fmt: skip
# Digits one by one, words with their leading space, runs of newlines apart: the split of the large model's tokenizer.
_SPLIT = r"\p{N}|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def training_text(seed: int, count: int = 20_000) -> list[str]:
    rng = random.Random(seed)
    lines = [t for asked in SMALL_TALK.items() for t in (asked[0], *asked[1])] * 20 + all_questions() * 5
    lines += [form for word in words() for form in (word, f"a {word}", word.capitalize())] * 20
    for i in range(count):
        scene = describable_scene(rng) if i % 2 else free_scene(rng)
        text = sentence(rng, scene)
        lines.append(as_typed(text, rng) if i % 3 == 0 else text)
    return lines + [f"{role}\n{text}\n" for role in ("user", "system", "assistant") for text in INSTRUCTIONS] * 300


def build_tokenizer(seed: int, path: Path) -> Tokenizer:
    """Train on the world's text and write tokenizer.json. Text takes ids below `TEXT_TOKENS`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_TOKENS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(training_text(seed), trainer)
    fill = TEXT_TOKENS - tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"<|reserved_{i}|>" for i in range(fill)])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    codes = [f"<|audio_{i}|>" for i in range(AUDIO_CODES)] + [f"<|image_{i}|>" for i in range(IMAGE_CODES)]
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in codes])
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer
