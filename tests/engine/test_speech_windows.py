"""Chunks of speech put together are the whole, however the tokens arrive."""

import random

import pytest
import torch
from torch import Tensor

from unmask_engine.codecs.speech_windows import AFTER, CHUNK, SpeechStream, decode_whole


class Codec:
    """Samples that depend on every code of the window, as a flow's do; 8 a token."""

    sample_rate = 100

    def __init__(self) -> None:
        self.windows: list[int] = []

    def decode(self, ids: Tensor, seed: int) -> Tensor:
        self.windows.append(len(ids))
        return (ids.float() + ids.float().mean()).repeat_interleave(8) + seed


@pytest.mark.parametrize("length", [0, 1, CHUNK, CHUNK + AFTER - 1, CHUNK + AFTER, 2 * CHUNK, 61, 200])
def test_any_arrival_gives_the_same_samples(length: int) -> None:
    codes = torch.randint(1000, (length,), generator=torch.Generator().manual_seed(length))
    whole = decode_whole(Codec(), codes, seed=3)
    assert len(whole) == 8 * length
    for seed in range(5):
        rng, stream, parts, here = random.Random(seed), SpeechStream(Codec(), 3), [], 0
        while here < length:
            here = min(length, here + rng.randint(1, 40))
            parts.append(stream.feed(codes[:here], final=here == length and rng.random() < 0.5))
        parts.append(stream.feed(codes, final=True))
        assert torch.equal(torch.cat(parts), whole)


def test_a_short_utterance_is_one_window_and_a_long_one_costs_little_more() -> None:
    codec = Codec()
    decode_whole(codec, torch.arange(CHUNK + AFTER - 1), 0)
    assert codec.windows == [CHUNK + AFTER - 1]
    codec.windows.clear()
    decode_whole(codec, torch.arange(400), 0)
    assert sum(codec.windows) < 2.3 * 400


def test_the_first_chunk_needs_no_more_than_its_context() -> None:
    stream = SpeechStream(Codec(), 0)
    codes = torch.arange(100)
    assert len(stream.feed(codes[: CHUNK + AFTER - 1], final=False)) == 0
    assert len(stream.feed(codes[: CHUNK + AFTER], final=False)) == 8 * CHUNK
