"""Batches of samples of equal padded length, and what a training step is asked: some of them packed, positions hidden.

All of it is drawn and computed on the CPU, in plain tensors: on whatever device the model is, and in whatever process
this runs (prefetch.py), the same seed gives the same exercises, and the device waits for nothing.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask_engine.transfer import send
from unmask_training.auxiliary import Labels
from unmask_training.masking import PAD_RATIO, hide
from unmask_training.pools import Pools
from unmask_training.sequences import Sample

AS_DECODED = 0.5  # share of samples whose pads are shown as decoding shows them
EMPTY = 0.4  # share of the samples of synthesis and of recognition whose answer is not shown at all
BUCKET = 16  # sequences are padded to a multiple: the 1-16 tail pads of the recipe

Rows = Sequence[NDArray[np.float16]]  # of each recording, (R, size)


@dataclass(frozen=True)
class Batch:
    """Equal-length sequences. ids (B, L) unmasked; answer (B, L) bool; pads (B, L) bool; speech rows to fill in."""

    ids: Tensor
    answer: Tensor
    pads: Tensor
    speech: list[tuple[int, int, int]]  # sequence, first position, recording
    copied: Tensor  # (B, L) bool: answers that say what the prompt says, in the other modality
    labels: Labels


class BatchStream:
    """Draws samples, sorts them into buckets of equal padded length, and gives out a bucket when it is full."""

    def __init__(self, pools: Pools, mixture: Mapping[str, float], tokens: int, rng: random.Random) -> None:
        self.pools, self.tokens, self.rng = pools, tokens, rng
        self.tasks, self.weights = list(mixture), list(mixture.values())
        self.buckets: dict[int, list[Sample]] = {}

    def __next__(self) -> Batch:
        while True:
            (task,) = self.rng.choices(self.tasks, self.weights)
            sample = self.pools.draw(task, self.rng)
            extra = BUCKET * self.rng.randrange(sample.max_pads // BUCKET)
            length = (len(sample.ids) // BUCKET + 1) * BUCKET + extra
            bucket = self.buckets.setdefault(length, [])
            bucket.append(sample)
            if len(bucket) * length >= self.tokens:
                del self.buckets[length]
                return collate(bucket, length, self.pools)


def collate(samples: list[Sample], length: int, pools: Pools) -> Batch:
    ids = torch.full((len(samples), length), pools.writer.pad)
    answer, pads, copied = (torch.zeros(ids.shape, dtype=torch.bool) for _ in range(3))
    speech = []
    for row, s in enumerate(samples):
        ids[row, : len(s.ids)] = torch.tensor(s.ids)
        answer[row, s.answer_start :] = True
        for start, end in s.earlier:
            answer[row, start:end] = True
        pads[row, len(s.ids) :] = True
        if s.speech is not None:
            speech.append((row, s.speech_start, s.speech))
        copied[row, slice(*s.copied)] = True
    return Batch(ids, answer, pads, speech, copied, Labels.of(samples, length, pools.heard, pools.clues))


def hidden_positions(
    batch: Batch, generator: torch.Generator, as_decoded: float = AS_DECODED, pad_ratio: float = PAD_RATIO
) -> Tensor:
    """(B, L) bool: by masking.hide, and in some samples all that says again what the prompt says.

    Where part of a word or of a sentence is shown the rest follows from it; only an empty canvas makes the model look
    at the text, or listen.
    """
    empty = torch.rand(len(batch.copied), 1, generator=generator) < EMPTY
    return hide(batch.answer, batch.pads, generator, as_decoded, pad_ratio) | (empty & batch.copied)


@dataclass(frozen=True)
class Exercise:
    """T positions of sequences packed end to end. W of them are hidden and asked for."""

    ids: Tensor  # (T,) with MASK where something is hidden
    lengths: tuple[int, ...]
    hidden: Tensor  # (W,) positions, rising
    answers: Tensor  # (W,) what is there
    weights: Tensor  # (W,) how much each counts
    rows: Tensor  # (R, size) float16: of the speech encoder
    at: Tensor  # (R,) positions that they belong at
    labels: Labels  # of T rows

    def to(self, device: torch.device) -> "Exercise":
        """The same, with its tensors on the device."""
        tensors = (self.ids, self.hidden, self.answers, self.weights, self.rows, self.at)
        ids, hidden, answers, weights, rows, at = (send(tensor, device) for tensor in tensors)
        return Exercise(ids, self.lengths, hidden, answers, weights, rows, at, self.labels.to(device))


def exercise(
    batches: Sequence[Batch], mask: int, rows: Rows, generator: torch.Generator,
    as_decoded: float = AS_DECODED, pad_ratio: float = PAD_RATIO,
) -> Exercise:  # fmt: skip
    """The batches packed end to end, with positions hidden.

    A position weighs 1 / sqrt(hidden positions of its sample), so that the five tokens of an answer are heard beside
    the sixty-four of a picture.
    """
    ids, hidden, weights, spoken, at, lengths, first = [], [], [], [], [], [], 0
    for batch in batches:
        chosen = hidden_positions(batch, generator, as_decoded, pad_ratio)
        count, length = batch.ids.shape
        ids.append(batch.ids.flatten())
        hidden.append(chosen.flatten())
        weights.append(chosen.sum(1).rsqrt()[:, None].expand(chosen.shape)[chosen])
        for sequence, start, recording in batch.speech:
            encoded = torch.from_numpy(rows[recording])
            spoken.append(encoded)
            at.append(first + sequence * length + start + torch.arange(len(encoded)))
        lengths += [length] * count
        first += count * length
    flat, is_hidden = torch.cat(ids), torch.cat(hidden)
    where = is_hidden.nonzero()[:, 0]
    return Exercise(
        ids=torch.where(is_hidden, mask, flat),
        lengths=tuple(lengths),
        hidden=where,
        answers=flat[where],
        weights=torch.cat(weights),
        rows=torch.cat(spoken) if spoken else torch.zeros(0, 0, dtype=torch.float16),
        at=torch.cat(at) if at else torch.zeros(0, dtype=torch.int64),
        labels=Labels.joined([batch.labels for batch in batches]),
    )


@dataclass(frozen=True)
class Curriculum:
    """What a stage draws: `blocks` batches of `tokens` a step, of a mixture (task -> share)."""

    pools: Pools
    rows: Rows
    mixture: Mapping[str, float]
    tokens: int
    blocks: int
    as_decoded: float
    pad_ratio: float

    def exercises(self, seed: int) -> Iterator[Exercise]:
        """Without end."""
        stream = BatchStream(self.pools, self.mixture, self.tokens, random.Random(seed))
        generator = torch.Generator().manual_seed(seed)
        mask = self.pools.writer.mask
        while True:
            batches = [next(stream) for _ in range(self.blocks)]
            yield exercise(batches, mask, self.rows, generator, self.as_decoded, self.pad_ratio)
