"""Word error rate, and an independent ear: pocketsphinx with a word-loop grammar.

Set up as the notes in docs/log.md found necessary: no function words in the grammar, narrow beams without lattice
search, and light white noise added first, without which it fails on clean synthetic speech.
"""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_WORTH_A_PROCESS = 8  # recordings: fewer are heard before a process has started
# The words that the grammar knows: clear ones, without function words.
_CONTENT = """
    above background below big black blue bottom brown center circle color column count cross describe diamond
    draw eight good goodbye grass gray green heart image large left many name nine objects orange picture pink
    please plus points purple red right row sand seven shape shapes show sides six sky small snow speak square
    star ten thank three top triangle white yellow yes zero
"""
# Words that the world never says, for a grammar of their own.
_NEW = """
    apple banana bottle bridge butter camera candle carpet chicken coffee copper dinner doctor dragon engine farmer
    finger forest guitar hammer island jacket kitchen ladder letter machine market mirror monkey mountain needle ocean
    onion pencil pepper planet pocket rabbit rocket summer ticket tiger tower turtle village wagon window winter
"""


def content_words() -> list[str]:
    """The words of the utterances that pocketsphinx judges, sorted."""
    return _CONTENT.split()


def new_words() -> list[str]:
    """Words that no training said, which pocketsphinx knows too, sorted."""
    return _NEW.split()


def word_errors(truth: str, heard: str) -> tuple[int, int]:
    """(substitutions + insertions + deletions, words in the truth)."""
    a, b = truth.split(), heard.split()
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1], len(a)


def word_error_rate(pairs: Sequence[tuple[str, str]]) -> float:
    """Of (truth, heard) pairs, over all words."""
    counts = [word_errors(*p) for p in pairs]
    return sum(e for e, _ in counts) / max(1, sum(n for _, n in counts))


@lru_cache(maxsize=2)
def _recogniser(words: tuple[str, ...]) -> object:
    from pocketsphinx import Decoder

    grammar = "#JSGF V1.0; grammar world; public <s> = ( " + " | ".join(words) + " )+ ;"
    decoder = Decoder(samprate=16000, bestpath=False, beam=1e-40, pbeam=1e-40, wbeam=1e-25, lm=None, loglevel="FATAL")
    decoder.add_jsgf_string("world", grammar)
    decoder.activate_search("world")
    return decoder


def sphinx_hears(
    samples: NDArray[np.float32], sample_rate: int, words: Sequence[str] = (), noise: float = 0.004
) -> str:
    """Which of the words pocketsphinx hears in mono samples; without any, of the content words."""
    import soxr

    wide = soxr.resample(samples, sample_rate, 16_000) if sample_rate != 16_000 else samples
    wide = np.pad(wide, (4000, 4000))
    wide = wide + np.random.default_rng(0).normal(0, noise, len(wide))
    decoder = _recogniser(tuple(words or content_words()))
    decoder.start_utt()  # type: ignore[attr-defined]
    decoder.process_raw((np.clip(wide, -1, 1) * 32767).astype(np.int16).tobytes(), False, True)  # type: ignore[attr-defined]
    decoder.end_utt()  # type: ignore[attr-defined]
    hypothesis = decoder.hyp()  # type: ignore[attr-defined]
    return hypothesis.hypstr if hypothesis else ""


def sphinx_hears_all(recordings: Sequence[tuple[NDArray[np.float32], int]], words: Sequence[str] = ()) -> list[str]:
    """`sphinx_hears` of each (samples, rate), many of them in a process for every core: it holds Python's lock."""
    workers = min(os.cpu_count() or 1, len(recordings) // _WORTH_A_PROCESS)
    if workers < 2:
        return [sphinx_hears(samples, rate, words) for samples, rate in recordings]
    waves, rates = zip(*recordings, strict=True)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(sphinx_hears, waves, rates, [words] * len(waves), chunksize=_WORTH_A_PROCESS // 2))
