"""Text on its way out: piece by piece, up to the first stop string."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from unmask_engine.request import TextToken


def stopped(text: str, stops: Sequence[str]) -> str:
    """The text before the stop string that is the first to be complete, the longest one if there are several."""
    found = ((text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text)
    return text[: min(found, default=(0, len(text)))[1]]


class TextStream:
    """A text that grows. What may turn out to be the beginning of a stop string is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._num_said = 0

    def feed(self, text: str, *, final: bool = False) -> str:
        """What is new in `text`, all there is so far."""
        said = stopped(text, self._stops)
        end = len(said) if final or len(said) < len(text) else len(said) - self._num_held(said)
        new = said[self._num_said : end]
        self._num_said += len(new)
        return new

    def _num_held(self, text: str) -> int:
        heads = (stop[:size] for stop in self._stops for size in range(1, len(stop)))
        return max((len(head) for head in heads if text.endswith(head)), default=0)


def logprobs(tokens: Sequence[TextToken], text: str, top: int) -> Iterator[dict[str, Any]]:
    """The tokens of `text` with the confidence they were committed with.

    That is, by the algorithm, a probability or a negative entropy: the mean of the log-probabilities of all that a
    position might have held. Both are at most 0 on this scale, and 0 is certain.
    """
    length = 0
    for token in tokens:
        if length >= len(text):
            return
        length += len(token.text)
        entry = {"token": token.text, "logprob": _log(token.confidence), "bytes": list(token.text.encode())}
        yield entry | {"top_logprobs": [entry] if top else []}


def _log(confidence: float | None) -> float:
    if confidence is None:  # was given
        return 0.0
    return math.log(confidence) if confidence > 0 else confidence
