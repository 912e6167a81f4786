"""A file of four samples in the published format, with their media."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from unmask_engine.media import write_audio, write_image
from unmask_engine.request import AudioPart, ImagePart


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


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
