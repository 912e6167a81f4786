"""Teaches the backbone which word each slot of speech belongs to, while it trains.

The k-th text token is spoken in the k-th slot (corpus.SLOT_TOKENS), but a small transformer finds that out slowly: it
has to count eights on one side and ones on the other. So after an early layer the rows of text tokens and of slots
must both name their number, by one head, which makes the two comparable; and half-way up, a slot's rows must name its
text token. Recognition is the same the other way round: the k-th text token is the k-th that the ears hear. Only the
training knows these heads; they do not ship.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unmask_engine.models.omni import OmniModel
from unmask_training.corpus import SLOT_TOKENS
from unmask_training.naming import IGNORED, Named, NamingHead
from unmask_training.train_ears import MAX_WORDS
from unmask_training.vocabulary import TEXT_TOKENS

SPOKEN_LAYERS = 1, 3  # after which the number and the word are named: of a slot
HEARD_LAYERS = 1, 3  # ... and of what is heard, which the ears have numbered


def slot_labels(ids: list[int], text_start: int, codes_start: int, count: int) -> tuple[Tensor, Tensor]:
    """(number, text token) of each row of one sample (L,), int64; rows of neither kind are IGNORED.

    Text tokens are at [text_start, text_start + count). The row before a code predicts it (shifted logits), so the
    label of a code stands there.
    """
    number, word = (torch.full((len(ids),), IGNORED) for _ in range(2))
    tokens = torch.tensor(ids[text_start : text_start + count])
    slots = slice(codes_start - 1, codes_start - 1 + count * SLOT_TOKENS)
    number[text_start : text_start + count] = torch.arange(count)
    number[slots] = torch.arange(count).repeat_interleave(SLOT_TOKENS)
    word[slots] = tokens.repeat_interleave(SLOT_TOKENS)
    return number, word


def heard_labels(
    length: int, rows: Sequence[tuple[int, int]], tokens: list[int], answer_start: int
) -> tuple[Tensor, Tensor]:
    """(number, text token) of each row of one recognised recording (L,), int64.

    `rows` are the (position, text token) that the ears' CTC head tells; they are numbered where they are the `tokens`.
    """
    number, word = (torch.full((length,), IGNORED) for _ in range(2))
    answer = slice(answer_start - 1, answer_start - 1 + len(tokens))
    number[answer] = torch.arange(len(tokens)).clamp(max=MAX_WORDS - 1)
    word[answer] = torch.tensor(tokens)
    if [token for _, token in rows] == tokens:
        for i, (position, _) in enumerate(rows):
            number[position] = min(i, MAX_WORDS - 1)
    return number, word


class SlotHeads(nn.Module):
    """The two heads on the hidden states of a model's layers."""

    def __init__(self, omni: OmniModel, number_layer: int, word_layer: int) -> None:
        super().__init__()
        self.number = NamingHead(omni, number_layer, (MAX_WORDS,))
        self.word = NamingHead(omni, word_layer, (TEXT_TOKENS,))

    def loss(self, number: Named, word: Named) -> Tensor:
        """Cross-entropies of the last forward pass; 0 where nothing is labelled."""
        return self.number.loss(number) + self.word.loss(word)
