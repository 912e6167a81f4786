"""Trains the backbone in the paper's three progressive stages, on masked positions of the answer only.

One mask ratio t ~ U(0, 1) a sample, tail pads by rules of their own (masking.py; arXiv 2603.06577, section 3.3). The
speech encoder is frozen: its rows are computed once, only the projector learns.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from unmask_engine.models.backbone import MLP
from unmask_engine.models.omni import OmniModel
from unmask_training import parallel
from unmask_training.auxiliary import Auxiliary, Labels
from unmask_training.devices import device_of, mixed
from unmask_training.loop import Schedule, Training
from unmask_training.masking import PAD_RATIO, hide
from unmask_training.pools import Pools
from unmask_training.sequences import Sample
from unmask_training.shared_bits import SharedBits

AS_DECODED = 0.5  # share of samples whose pads are shown as decoding shows them
EMPTY = 0.4  # share of the samples of synthesis and of recognition whose answer is not shown at all
BUCKET = 16  # sequences are padded to a multiple: the 1-16 tail pads of the recipe


@dataclass(frozen=True)
class Stage:
    """A data mixture (task -> share) trained for some minutes."""

    name: str
    mixture: Mapping[str, float]
    minutes: float
    learning_rate: float
    matrix_rate: float = 0.0  # of Muon, see loop.Schedule
    accumulate: int = 1  # batches a step
    pad_ratio: float = PAD_RATIO  # the paper's gamma
    as_decoded: float = AS_DECODED
    keep_every: float = 0.0  # minutes between copies that stay, for a curve over the time; 0: none
    compiler: str = ""  # backend of torch.compile for the layers' MLPs, "inductor"; "": none (docs/training.md)


@dataclass(frozen=True)
class Batch:
    """Equal-length sequences. ids (B, L) unmasked; answer (B, L) bool; pads (B, L) bool; speech rows to fill in."""

    ids: Tensor
    answer: Tensor
    pads: Tensor
    speech: list[tuple[int, int, int]]  # sequence, first position, recording
    copied: Tensor  # (B, L) bool: answers that say what the prompt says, in the other modality
    labels: Labels

    def to(self, device: torch.device) -> "Batch":
        """The same, with its tensors on the device."""
        tensors = {name: getattr(self, name).to(device) for name in ("ids", "answer", "pads", "copied", "labels")}
        return replace(self, **tensors)


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


class Learner(nn.Module):
    """The model with what helps it to learn and does not ship."""

    def __init__(self, bits: SharedBits) -> None:
        super().__init__()
        self.bits = bits
        self.auxiliary = Auxiliary(bits.omni)

    @property
    def omni(self) -> OmniModel:
        return self.bits.omni

    def freeze_ears(self) -> None:
        for parameter in self.omni.speech_encoder.parameters():
            parameter.requires_grad_(False)

    def shard(self) -> None:
        """Split what learns over the processes, where there are several."""
        parallel.shard(self, self.omni.model.layers, self.omni.speech_encoder.parameters())

    def forward(
        self, batch: Batch, hidden: Tensor, mask_id: int, speech: list[NDArray[np.float16]]
    ) -> dict[str, Tensor]:
        """The losses of a batch of which `hidden` (B, L) is masked; see masked_loss."""
        device = device_of(self)
        hidden, batch = hidden.to(device), batch.to(device)
        inputs = torch.where(hidden, mask_id, batch.ids)
        count, length = inputs.shape
        with mixed(device):
            embeds = self.bits.embed(inputs.flatten())
            if batch.speech:
                rows = torch.cat([torch.from_numpy(speech[i]).float() for _, _, i in batch.speech]).to(device)
                projected = self.omni.model.audio_projection(rows)
                where = torch.cat([r * length + torch.arange(at, at + len(speech[i])) for r, at, i in batch.speech])
                embeds = embeds.index_copy(0, where.to(device), projected.to(embeds.dtype))
            out = self.omni.forward_packed(embeds, [length] * count)
            wanted = hidden.flatten().nonzero()[:, 0]
            logits = self.bits.logits(out[wanted - 1])
        losses = F.cross_entropy(logits.float(), batch.ids.flatten()[wanted], reduction="none")
        weights = hidden.sum(1).rsqrt()[wanted // length]
        answers = (losses * weights).sum() / weights.sum()
        if parallel.is_shared():  # what this batch has no use for, that of another process may have
            rare = (*self.auxiliary.parameters(), *self.omni.model.audio_projection.parameters())
            answers = answers + 0.0 * torch.stack([p.flatten()[0] for p in rare]).sum()
        return {"answers": answers, **self.auxiliary.losses(batch.labels)}

    @torch.no_grad()
    def load_averaged(self, checkpoint: Mapping[str, Any]) -> None:
        """The averaged weights of a stage's checkpoint, in the middle of the stage or at its end."""
        self.load_state_dict(checkpoint["model"])
        self.freeze_ears()
        learnt = [p for p in self.parameters() if p.requires_grad]
        for p, averaged in zip(learnt, checkpoint["ema"], strict=True):
            p.copy_(averaged)


def hidden_positions(
    batch: Batch, generator: torch.Generator, as_decoded: float = AS_DECODED, pad_ratio: float = PAD_RATIO
) -> Tensor:
    """(B, L) bool: by masking.hide, and in some samples all that says again what the prompt says.

    Where part of a word or of a sentence is shown the rest follows from it; only an empty canvas makes the model look
    at the text, or listen.
    """
    empty = torch.rand(len(batch.copied), 1, generator=generator) < EMPTY
    return hide(batch.answer, batch.pads, generator, as_decoded, pad_ratio) | (empty & batch.copied)


def masked_loss(
    model: Learner,
    batch: Batch,
    mask_id: int,
    speech: list[NDArray[np.float16]],
    generator: torch.Generator,
    as_decoded: float = AS_DECODED,
    pad_ratio: float = PAD_RATIO,
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy over hidden positions; position i is predicted by the hidden state of i - 1.

    A position weighs 1 / sqrt(hidden positions of its sample), so that the five tokens of an answer are heard beside
    the sixty-four of a picture. Returns the loss with that of the heads beside the answers, and its parts. The batch
    lies on the CPU, where it is decided what to hide, whatever the model's device.
    """
    hidden = hidden_positions(batch, generator, as_decoded, pad_ratio)
    losses = model(batch, hidden, mask_id, speech)
    return torch.stack(list(losses.values())).sum(), {name: float(loss.detach()) for name, loss in losses.items()}


def train_stage(
    model: Learner, stage: Stage, pools: Pools, speech: list[NDArray[np.float16]], out: Path,
    seed: int, tokens: int = 4096,
) -> None:  # fmt: skip
    """Train one stage in place, resuming from `out / stage.name`; the weights end as their moving average."""
    torch.manual_seed(seed)
    model.freeze_ears()
    if stage.compiler:
        for module in model.omni.modules():
            if isinstance(module, MLP):
                module.compile(backend=stage.compiler, dynamic=True)
    schedule = Schedule(
        stage.minutes, stage.learning_rate, stage.matrix_rate, warmup_steps=100, weight_decay=0.01, ema_decay=0.998,
        accumulate=stage.accumulate, keep_every_s=60 * stage.keep_every,
    )  # fmt: skip
    training = Training(model, schedule, out / stage.name)
    fresh = training.fresh_seed(seed)
    generator = torch.Generator().manual_seed(fresh)
    stream = BatchStream(pools, stage.mixture, tokens, random.Random(fresh))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        return masked_loss(model, next(stream), pools.writer.mask, speech, generator, stage.as_decoded, stage.pad_ratio)

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
