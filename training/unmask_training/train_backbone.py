"""Trains the backbone in the paper's three progressive stages, on masked positions of the answer only.

One mask ratio t ~ U(0, 1) a sample, tail pads by rules of their own (masking.py; arXiv 2603.06577, section 3.3). The
speech encoder is frozen: its rows are computed once, only the projector learns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask_engine.models.backbone import MLP
from unmask_engine.models.omni import OmniModel
from unmask_training import parallel
from unmask_training.auxiliary import Auxiliary
from unmask_training.batches import AS_DECODED, Curriculum, Exercise, Rows
from unmask_training.devices import device_of, mixed
from unmask_training.loop import Numbers, Schedule, Training
from unmask_training.masking import PAD_RATIO
from unmask_training.pools import Pools
from unmask_training.prefetch import exercises
from unmask_training.shared_bits import SharedBits


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

    def forward(self, exercise: Exercise) -> dict[str, Tensor]:
        """The losses of an exercise: cross-entropy over what is hidden, and that of the heads beside it.

        Position i is predicted by the hidden state of i - 1; none is the first of its sequence.
        """
        device = device_of(self)
        exercise = exercise.to(device)
        with mixed(device):
            embeds = self.bits.embed(exercise.ids)
            if len(exercise.at):
                projected = self.omni.model.audio_projection(exercise.rows.float())
                embeds = embeds.index_copy(0, exercise.at, projected.to(embeds.dtype))
            out = self.omni.forward_packed(embeds, exercise.lengths)
            logits = self.bits.logits(out[exercise.hidden - 1])
        losses = F.cross_entropy(logits.float(), exercise.answers, reduction="none")
        answers = (losses * exercise.weights).sum() / exercise.weights.sum()
        if parallel.is_shared():  # what this batch has no use for, that of another process may have
            rare = (*self.auxiliary.parameters(), *self.omni.model.audio_projection.parameters())
            answers = answers + 0.0 * torch.stack([p.flatten()[0] for p in rare]).sum()
        return {"answers": answers, **self.auxiliary.losses(exercise.labels)}

    @torch.no_grad()
    def load_averaged(self, checkpoint: Mapping[str, Any]) -> None:
        """The averaged weights of a stage's checkpoint, in the middle of the stage or at its end."""
        self.load_state_dict(checkpoint["model"])
        self.freeze_ears()
        learnt = [p for p in self.parameters() if p.requires_grad]
        for p, averaged in zip(learnt, checkpoint["ema"], strict=True):
            p.copy_(averaged)


def learning_loss(model: Learner, exercise: Exercise) -> tuple[Tensor, Numbers]:
    """The sum of all losses of an exercise, and each of them, on the model's device."""
    losses = model(exercise)
    return torch.stack(list(losses.values())).sum(), {name: loss.detach() for name, loss in losses.items()}


def train_stage(
    model: Learner, stage: Stage, pools: Pools, speech: Rows, out: Path, seed: int, tokens: int = 4096,
    blocks: int = 1, workers: int = 0,
) -> None:  # fmt: skip
    """Train one stage in place, resuming from `out / stage.name`; the weights end as their moving average.

    A batch is `blocks` times `tokens`, drawn ahead by so many `workers`.
    """
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
    curriculum = Curriculum(pools, speech, stage.mixture, tokens, blocks, stage.as_decoded, stage.pad_ratio)
    drawn = exercises(curriculum, training.fresh_seed(seed), workers)
    training.run(lambda step: learning_loss(model, next(drawn)))
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
