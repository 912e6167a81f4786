"""What a fine-tuning step sees: samples packed end to end, with tail pads, and positions hidden.

Packing as in the published recipe: sequences of at most so many tokens, whose samples do not see one another and count
their positions from 0 (paper.md, Training). Batch `number` is a pure function of the seed, so that a run that was
killed goes on with what it had not seen, and so that processes can share a run without speaking about data.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unmask_engine.vocabulary import Vocabulary
from unmask_training.bundle_writer import Span, Written
from unmask_training.masking import hide
from unmask_training.sample_store import SampleStore

MAX_PADS = 16  # pads after an answer: U{1..16} (paper.md, Training)


@dataclass(frozen=True)
class Packed:
    """T positions of several samples. `rows` (R, size) of the speech encoder belong at the positions `at` (R,)."""

    ids: Tensor  # (T,)
    hidden: Tensor  # (T,) bool: masked, and to be predicted
    lengths: tuple[int, ...]
    rows: Tensor
    at: Tensor

    def to(self, device: torch.device) -> "Packed":
        ids, hidden, rows, at = (x.to(device) for x in (self.ids, self.hidden, self.rows, self.at))
        return Packed(ids, hidden, self.lengths, rows, at)


class Batches:
    """`batches[number]`: epochs one after another, each with all samples in another order of sequences."""

    def __init__(self, store: SampleStore, tokens: int, vocabulary: Vocabulary, seed: int, drop: float) -> None:
        self.store, self.vocabulary, self.seed, self.drop = store, vocabulary, seed, drop
        lengths = store.lengths
        order = list(range(len(store)))
        random.Random(seed).shuffle(order)
        self.sequences: list[list[int]] = []
        room = 0
        for i in order:
            length = lengths[i] + MAX_PADS
            if length > room:
                self.sequences.append([])
                room = tokens
            self.sequences[-1].append(i)
            room -= length

    def __len__(self) -> int:
        """Sequences of an epoch."""
        return len(self.sequences)

    def __getitem__(self, number: int) -> Packed:
        epoch, position = divmod(number, len(self))
        order = list(range(len(self)))
        random.Random(f"{self.seed} epoch {epoch}").shuffle(order)
        rng = random.Random(f"{self.seed} batch {number}")
        samples = [self._conditioned(self.store[i], rng) for i in self.sequences[order[position]]]
        return pack(samples, self.vocabulary.pad, self.store.size, rng)

    def _conditioned(self, sample: Written, rng: random.Random) -> Written:
        """At times without the user's content, so that guidance has something to compare with."""
        if sample.bare is None or rng.random() >= self.drop:
            return sample
        (answer,) = sample.answers
        start = len(sample.bare)
        span = Span(start, start + answer.stop - answer.start)
        return Written(sample.bare + sample.ids[answer.start :], (span,), (), None)


def pack(samples: list[Written], pad: int, size: int, rng: random.Random) -> Packed:
    """One mask ratio t ~ U(0, 1) a sample, tail pads masked with 0.6 t."""
    lengths = [len(sample.ids) + rng.randint(1, MAX_PADS) for sample in samples]
    ids = torch.full((len(samples), max(lengths)), pad)
    answer, pads, kept = (torch.zeros(ids.shape, dtype=torch.bool) for _ in range(3))
    rows, at = [np.zeros((0, size), np.float16)], [torch.zeros(0, dtype=torch.long)]
    start = 0
    for i, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
        end = len(sample.ids)
        ids[i, :end] = torch.tensor(sample.ids)
        for span in sample.answers:
            answer[i, span.start : span.stop] = True
        answer[i, end:length] = pads[i, end:length] = True
        kept[i, :length] = True
        for position, encoded in sample.speech:
            rows.append(encoded)
            at.append(torch.arange(start + position, start + position + len(encoded)))
        start += length
    hidden = hide(answer, pads, torch.Generator().manual_seed(rng.getrandbits(62)))
    speech = torch.from_numpy(np.concatenate(rows)).float()
    return Packed(ids[kept], hidden[kept], tuple(lengths), speech, torch.cat(at))
