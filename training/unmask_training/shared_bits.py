"""Image codes that share what they learn, while the backbone trains.

A code is `num_bits` signs (arXiv 2310.05737). To 2048 unrelated embeddings, two codes that differ in one bit have
nothing in common; a small model sees most of them too rarely. So while training, the embedding and the head row of a
code are its own vector plus a sum of one learnt vector a bit. `fold` writes the sums into the tables: what is served
is an ordinary embedding and an ordinary head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask_engine.models.omni import OmniModel


class SharedBits(nn.Module):
    """Wraps a model. `first` is the id of image code 0; `bits` is (codes, num_bits) of -1 and +1."""

    bits: Tensor

    def __init__(self, omni: OmniModel, first: int, bits: Tensor) -> None:
        super().__init__()
        self.omni, self.first = omni, first
        hidden = omni.lm_head.in_features
        self.register_buffer("bits", bits.float(), persistent=False)
        self.embedding = nn.Parameter(torch.zeros(bits.shape[1], hidden))
        self.head = nn.Parameter(torch.zeros(bits.shape[1], hidden))

    def embed(self, ids: Tensor) -> Tensor:
        """(T,) ids -> (T, hidden)."""
        return F.embedding(ids, self._with_shared(self.omni.model.embed_tokens.weight, self.embedding))

    def logits(self, hidden_rows: Tensor) -> Tensor:
        """(R, hidden) -> (R, vocab)."""
        return F.linear(hidden_rows, self._with_shared(self.omni.lm_head.weight, self.head))

    def fold(self) -> None:
        """Move the shared vectors into the model's tables; the outputs stay as they are."""
        with torch.no_grad():
            for table, shared in (
                (self.omni.model.embed_tokens.weight, self.embedding),
                (self.omni.lm_head.weight, self.head),
            ):
                table.copy_(self._with_shared(table, shared))
                shared.zero_()

    def _with_shared(self, table: Tensor, shared: Tensor) -> Tensor:
        end = self.first + len(self.bits)
        return torch.cat([table[: self.first], table[self.first : end] + self.bits @ shared, table[end:]])
