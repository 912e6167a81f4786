"""Speech from a growing prefix of tokens, such that the chunks put together are the whole, sample for sample.

The flow's length regulator normalises over all frames it is given, so a prefix does not decode to a prefix of the
whole. Therefore the whole is *defined* as what the chunks are: fixed windows of tokens with context on both sides,
faded into one another. An utterance shorter than one window is decoded in one piece, as upstream does.
"""

from typing import Final, Protocol

import torch
from torch import Tensor

CHUNK: Final = 25  # tokens of new speech a window adds
BEFORE: Final = 25  # tokens of context before them
AFTER: Final = 5  # tokens of context after them
FADE_S: Final = 0.04


class Codec(Protocol):
    sample_rate: int

    def decode(self, ids: Tensor, seed: int) -> Tensor:
        """Codes (L,) -> samples (T,)."""


class SpeechStream:
    """Give it all codes there are so far, again and again; it returns the samples that are new."""

    def __init__(self, codec: Codec, seed: int, token_rate: float = 12.5) -> None:
        self._codec, self._seed = codec, seed
        self._per_token = codec.sample_rate / token_rate
        self._chunk = 0
        self._tail = torch.zeros(0)  # the last window's samples from where its chunk ends
        self._is_over = False

    def feed(self, ids: Tensor, *, final: bool) -> Tensor:
        """ids (L,): the codes so far -> new samples (T,), maybe none. With `final` they are all there is."""
        parts = []
        while not self._is_over:
            start, stop = self._chunk * CHUNK, (self._chunk + 1) * CHUNK
            if len(ids) < stop + AFTER and not final:
                break
            self._is_over = len(ids) < stop + AFTER
            parts.append(self._window(ids, start, None if self._is_over else stop))
            self._chunk += 1
        return torch.cat(parts) if parts else torch.zeros(0)

    def _window(self, ids: Tensor, start: int, stop: int | None) -> Tensor:
        """The samples of the tokens [start, stop), or to the end."""
        if start >= len(ids):
            return self._tail
        first = max(0, start - BEFORE)
        last = len(ids) if stop is None else stop + AFTER
        samples = self._codec.decode(ids[first:last], self._seed + self._chunk).float().cpu()
        begin = self._at(start) - self._at(first)
        end = len(samples) if stop is None else self._at(stop) - self._at(first)
        new = samples[begin:end]
        fade = min(len(self._tail), len(new), round(FADE_S * self._codec.sample_rate))
        if fade:
            weight = torch.linspace(0, 1, fade + 2)[1:-1]
            new = torch.cat([self._tail[:fade] * (1 - weight) + new[:fade] * weight, new[fade:]])
        self._tail = samples[end:]
        return new

    def _at(self, token: int) -> int:
        """The sample at which a token begins."""
        return int(token * self._per_token)


def decode_whole(codec: Codec, ids: Tensor, seed: int, token_rate: float = 12.5) -> Tensor:
    """All samples of an utterance: what the chunks of a stream put together are."""
    return SpeechStream(codec, seed, token_rate).feed(ids, final=True)
