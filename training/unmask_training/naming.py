"""Linear classifiers on the hidden states of one of the backbone's layers: what the training-only heads are made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask_engine.models.omni import OmniModel
from unmask_engine.transfer import send

IGNORED = -1  # label of a row that has nothing to name


@dataclass(frozen=True)
class Named:
    """Labels of those rows that have something to name."""

    rows: Tensor  # (N,) rising
    classes: Tensor  # (N, heads), some of which may be IGNORED

    @classmethod
    def of(cls, labels: Tensor) -> "Named":
        """Of labels (T, heads) of all rows."""
        rows = (labels != IGNORED).any(1).nonzero()[:, 0]
        return cls(rows, labels[rows])

    def to(self, device: torch.device) -> "Named":
        """The same, with its tensors on the device."""
        return Named(send(self.rows, device), send(self.classes, device))


class NamingHead(nn.Module):
    """Names one class of each of `classes` after `layer` of a model; it does not ship."""

    def __init__(self, omni: OmniModel, layer: int, classes: Sequence[int]) -> None:
        super().__init__()
        hidden = omni.lm_head.in_features
        self.norm = nn.LayerNorm(hidden)
        self.heads = nn.ModuleList(nn.Linear(hidden, count) for count in classes)
        self._seen: Tensor | None = None
        omni.model.layers[layer].register_forward_hook(self._note)

    def loss(self, named: Named, weights: Tensor | None = None) -> Tensor:
        """Sum over the heads of the mean cross-entropy of the last forward pass; 0 where nothing is labelled.

        `weights` (N,) says how much each of the rows counts.
        """
        assert self._seen is not None  # a forward pass came before
        total = self._seen.new_zeros((), dtype=torch.float32)
        if not len(named.rows):
            return total
        hidden = self.norm(self._seen[named.rows].float())
        for head, wanted in zip(self.heads, named.classes.T, strict=True):
            weight = (wanted != IGNORED).float() * (1.0 if weights is None else weights)
            losses = F.cross_entropy(head(hidden), wanted, reduction="none", ignore_index=IGNORED)
            total = total + (losses * weight).sum() / weight.sum().clamp(min=1e-6)
        return total

    def _note(self, module: nn.Module, inputs: tuple[object, ...], output: Tensor) -> None:
        self._seen = output
