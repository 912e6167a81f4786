"""Trains the backbone in the paper's three progressive stages, on masked positions of the answer only.

One mask ratio t ~ U(0, 1) a sample, tail pads by rules of their own (masking.py; arXiv 2603.06577, section 3.3). The
speech encoder is frozen: its rows are computed once, only the projector learns.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from unmask_engine.models.omni import OmniModel
from unmask_training import parallel
from unmask_training.grounding import IGNORED, NAMED, Grounding, patch_labels
from unmask_training.loop import Schedule, Training
from unmask_training.masking import hide
from unmask_training.pools import Pools
from unmask_training.sequences import Sample
from unmask_training.shared_bits import SharedBits
from unmask_training.train_image_codec import CONFIG, SIDE

AS_DECODED = 0.5  # share of samples whose pads are shown as decoding shows them
GRID = SIDE // CONFIG.factor  # image tokens a side
GROUNDING_LAYER = 3  # of the small model's six
GROUNDING_WEIGHT = 0.2
BUCKET = 16  # sequences are padded to a multiple: the 1-16 tail pads of the recipe


@dataclass(frozen=True)
class Stage:
    """A data mixture (task -> share) trained for some minutes."""

    name: str
    mixture: Mapping[str, float]
    minutes: float
    learning_rate: float
    matrix_rate: float = 0.0  # of Muon, see loop.Schedule


@dataclass(frozen=True)
class Batch:
    """Equal-length sequences. ids (B, L) unmasked; answer (B, L) bool; pads (B, L) bool; speech rows to fill in."""

    ids: Tensor
    answer: Tensor
    pads: Tensor
    speech: list[tuple[int, int, int]]  # sequence, first position, recording
    patches: Tensor  # (B, L, heads) int64, grounding.patch_labels at the prompt's image tokens, else grounding.IGNORED


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
                return collate(bucket, length, self.pools.writer.pad)


def collate(samples: list[Sample], length: int, pad: int) -> Batch:
    ids = torch.full((len(samples), length), pad)
    answer = torch.zeros(ids.shape, dtype=torch.bool)
    pads = torch.zeros(ids.shape, dtype=torch.bool)
    patches = torch.full((*ids.shape, len(NAMED)), IGNORED)
    speech = []
    for row, s in enumerate(samples):
        ids[row, : len(s.ids)] = torch.tensor(s.ids)
        answer[row, s.answer_start :] = True
        for start, end in s.earlier:
            answer[row, start:end] = True
        pads[row, len(s.ids) :] = True
        if s.speech is not None:
            speech.append((row, s.speech_start, s.speech))
        if s.scene is not None:
            labels = patch_labels(s.scene, GRID)
            patches[row, s.image_start : s.image_start + len(labels)] = torch.tensor(labels)
    return Batch(ids, answer, pads, speech, patches)


class Learner(nn.Module):
    """The model with what helps it to learn and does not ship."""

    def __init__(self, bits: SharedBits) -> None:
        super().__init__()
        self.bits = bits
        self.grounding = Grounding(bits.omni, GROUNDING_LAYER)

    @property
    def omni(self) -> OmniModel:
        return self.bits.omni


def masked_loss(
    model: Learner, batch: Batch, mask_id: int, speech: list[NDArray[np.float16]], generator: torch.Generator
) -> Tensor:
    """Cross-entropy over hidden positions; position i is predicted by the hidden state of i - 1.

    A position weighs 1 / sqrt(hidden positions of its sample), so that the five tokens of an answer are heard beside
    the sixty-four of a picture.
    """
    hidden = hide(batch.answer, batch.pads, generator, AS_DECODED)
    inputs = torch.where(hidden, mask_id, batch.ids)
    count, length = inputs.shape
    with torch.autocast("cpu", torch.bfloat16):
        embeds = model.bits.embed(inputs.flatten())
        if batch.speech:
            rows = torch.cat([torch.from_numpy(speech[i]).float() for _, _, i in batch.speech])
            projected = model.omni.model.audio_projection(rows)
            where = torch.cat([r * length + torch.arange(at, at + len(speech[i])) for r, at, i in batch.speech])
            embeds = embeds.index_copy(0, where, projected.to(embeds.dtype))
        out = model.omni.forward_packed(embeds, [length] * count)
        wanted = hidden.flatten().nonzero()[:, 0]
        logits = model.bits.logits(out[wanted - 1])
    losses = F.cross_entropy(logits.float(), batch.ids.flatten()[wanted], reduction="none")
    weights = hidden.sum(1).rsqrt()[wanted // length]
    answers = (losses * weights).sum() / weights.sum()
    return answers + GROUNDING_WEIGHT * model.grounding.loss(batch.patches.flatten(0, 1))


def train_stage(
    model: Learner, stage: Stage, pools: Pools, speech: list[NDArray[np.float16]], out: Path,
    seed: int, tokens: int = 4096,
) -> None:  # fmt: skip
    """Train one stage in place, resuming from `out / stage.name`; the weights end as their moving average."""
    torch.manual_seed(seed)
    for parameter in model.omni.speech_encoder.parameters():
        parameter.requires_grad_(False)
    schedule = Schedule(
        stage.minutes, stage.learning_rate, stage.matrix_rate, warmup_steps=100, weight_decay=0.01, ema_decay=0.998
    )
    training = Training(model, schedule, out / stage.name)
    # A resumed run goes on with fresh data instead of repeating what it has seen; so does each process of several.
    fresh = seed + training.step + 1_000_000 * parallel.rank()
    generator = torch.Generator().manual_seed(fresh)
    stream = BatchStream(pools, stage.mixture, tokens, random.Random(fresh))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        return masked_loss(model, next(stream), pools.writer.mask, speech, generator), {}

    training.run(loss_of)
    training.use_ema()


def initialise(model: OmniModel) -> None:
    """Normal 0.02 everywhere, residual outputs scaled down by depth."""
    layers = len(model.model.layers)
    for name, module in model.named_modules():
        if "audio_model" in name:
            continue
        if isinstance(module, nn.Linear | nn.Embedding):
            scale = (2 * layers) ** -0.5 if name.endswith(("o_proj", "down_proj")) else 1.0
            nn.init.normal_(module.weight, std=0.02 * scale)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
