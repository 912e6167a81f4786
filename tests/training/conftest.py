"""A file of four samples in the published format, with their media."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from unmask_engine.media import write_audio, write_image
from unmask_engine.request import AudioPart, ImagePart
from unmask_training.corpus import SLOT_TOKENS, Said
from unmask_training.language import words
from unmask_training.pools import SILENCE, Pools, scenes
from unmask_training.sequences import Writer
from unmask_training.vocabulary import IMAGE_CODES, build_tokenizer


def _turns(user: str, answer: str, system: str = "") -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": user}, {"role": "assistant", "content": answer}]


@pytest.fixture
def four_samples(tmp_path: Path) -> Path:
    """Text to image, an image question, recognition and chat: the four that need no speech tokenizer."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(write_image(ImagePart(pixels), "png"))
    samples = rng.normal(0, 0.1, 16_000).astype(np.float32)
    (tmp_path / "a.wav").write_bytes(write_audio(AudioPart(samples, 16_000), "wav"))
    instruction = "Generate an image based on the provided text description."
    bodies = [
        {"messages": _turns(f"{instruction}\na red circle", "<|image|>"), "images": ["a.png"]},
        {"messages": _turns("what shape is it\n<|image|>", "a star"), "images": ["a.png"]},
        {"messages": _turns("Convert the speech to text.\n<|audio|>", "a red circle"), "audios": ["a.wav"]},
        {"messages": _turns("hello", "hello") + _turns("who are you", "my name is unmask")},
    ]
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps(body) + "\n" for body in bodies))
    return file


@pytest.fixture(scope="session")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Pools:
    """A little of everything that a stage draws from; its recordings have 9, 12 and 6 rows."""
    tokenizer = build_tokenizer(0, tmp_path_factory.mktemp("pools") / "tokenizer.json")
    drawn, seen = scenes(0, 5, 5)
    rng = random.Random(0)
    codes = [[rng.randrange(IMAGE_CODES) for _ in range(64)] for _ in range(10)]
    said = (
        Said("a red circle", "caption", "rms", drawn[0]),
        Said("what color is the background", "question", "rms"),
        Said("hello", "talk", "rms"),
    )
    lexicon = {w: list(range(i, i + SLOT_TOKENS)) for i, w in enumerate([*words(), SILENCE])}
    seen_pictures = list(zip(seen, codes[5:], strict=True))
    return Pools(
        Writer(tokenizer, [9, 12, 6]),
        list(zip(drawn, codes[:5], strict=True)),
        seen_pictures,
        said,
        {0: codes[0]},
        lexicon,
        heard=([(4, 300)], [(5, 301), (8, 302)], []),
    )
