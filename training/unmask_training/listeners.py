"""Word error rate, and an independent ear: pocketsphinx with a word-loop grammar.

Set up as the notes in docs/log.md found necessary: no function words in the grammar, narrow beams without lattice
search, and light white noise added first, without which it fails on clean synthetic speech.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from unmask_training.language import words

_LEFT_OUT = """
    a able am an and are at can day do does five fine four has have hear hello how i in is it later me much my no of on
    one see the there to today two very what where who you your unmask welcome
"""
FUNCTION_WORDS = frozenset(_LEFT_OUT.split())  # and short words that it confuses


def content_words() -> list[str]:
    """The words that the grammar knows: clear ones of the world, without function words."""
    return [w for w in words() if w not in FUNCTION_WORDS]


def word_errors(truth: str, heard: str) -> tuple[int, int]:
    """(substitutions + insertions + deletions, words in the truth)."""
    a, b = truth.split(), heard.split()
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1], len(a)


def word_error_rate(pairs: list[tuple[str, str]]) -> float:
    """Of (truth, heard) pairs, over all words."""
    counts = [word_errors(*p) for p in pairs]
    return sum(e for e, _ in counts) / max(1, sum(n for _, n in counts))


@lru_cache(maxsize=1)
def _recogniser() -> object:
    from pocketsphinx import Decoder

    grammar = "#JSGF V1.0; grammar world; public <s> = ( " + " | ".join(content_words()) + " )+ ;"
    decoder = Decoder(samprate=16000, bestpath=False, beam=1e-40, pbeam=1e-40, wbeam=1e-25, lm=None, loglevel="FATAL")
    decoder.add_jsgf_string("world", grammar)
    decoder.activate_search("world")
    return decoder


def sphinx_hears(samples: NDArray[np.float32], sample_rate: int, noise: float = 0.004) -> str:
    """The content words that pocketsphinx hears in mono samples."""
    import soxr

    wide = soxr.resample(samples, sample_rate, 16_000) if sample_rate != 16_000 else samples
    wide = np.pad(wide, (4000, 4000))
    wide = wide + np.random.default_rng(0).normal(0, noise, len(wide))
    decoder = _recogniser()
    decoder.start_utt()  # type: ignore[attr-defined]
    decoder.process_raw((np.clip(wide, -1, 1) * 32767).astype(np.int16).tobytes(), False, True)  # type: ignore[attr-defined]
    decoder.end_utt()  # type: ignore[attr-defined]
    hypothesis = decoder.hyp()  # type: ignore[attr-defined]
    return hypothesis.hypstr if hypothesis else ""
