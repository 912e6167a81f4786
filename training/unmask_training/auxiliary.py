"""What helps the small backbone to learn beside its answers: labels of a batch's rows, and the heads that name them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unmask_engine.models.omni import OmniModel
from unmask_training.grounding import NAMED, Grounding, patch_labels
from unmask_training.naming import IGNORED
from unmask_training.pools import Heard
from unmask_training.referring import COLUMNS, Referring, question_labels
from unmask_training.sequences import Sample
from unmask_training.slot_heads import HEARD_LAYERS, SPOKEN_LAYERS, SlotHeads, heard_labels, slot_labels
from unmask_training.train_image_codec import CONFIG, SIDE

GRID = SIDE // CONFIG.factor  # image tokens a side
GROUNDING_LAYER = 3  # of the small model's six
GROUNDING_WEIGHT = 0.2
REFERRING_WEIGHT = 0.5
SLOT_WEIGHT = 1.0
HEARD_WEIGHT = 0.7


@dataclass(frozen=True)
class Labels:
    """Of B sequences of L rows, int64, IGNORED where there is nothing to name."""

    spoken: tuple[Tensor, Tensor]  # (B, L) each: number and text token of slots of speech
    heard: tuple[Tensor, Tensor]  # (B, L) each: number and text token of what is recognised
    patches: Tensor  # (B, L, heads): what covers each patch of the prompt's picture
    asked: Tensor  # (B, L, heads): the thing that a word of a question is about

    @classmethod
    def of(cls, samples: Sequence[Sample], length: int, heard: Sequence[Heard], words: Mapping[int, str]) -> "Labels":
        """`heard` is by recording; `words` are the clues of referring.word_ids."""
        shape = (len(samples), length)
        number, word, heard_number, heard_word = (torch.full(shape, IGNORED) for _ in range(4))
        patches, asked = torch.full((*shape, len(NAMED)), IGNORED), torch.full((*shape, COLUMNS), IGNORED)
        for row, s in enumerate(samples):
            size = len(s.ids)
            said = [] if s.speech is None else [(s.speech_start + at, token) for at, token in heard[s.speech]]
            if s.spoken is not None:
                number[row, :size], word[row, :size] = slot_labels(s.ids, *s.spoken)
            if s.recognised:
                answer = s.ids[s.answer_start : s.answer_start + s.recognised]
                heard_number[row, :size], heard_word[row, :size] = heard_labels(size, said, answer, s.answer_start)
            if s.scene is not None:
                grid = patch_labels(s.scene, GRID)
                patches[row, s.image_start : s.image_start + len(grid)] = torch.tensor(grid)
                for question in (said, *_typed(s)):
                    for position, classes in question_labels(question, s.scene, words).items():
                        asked[row, position] = torch.tensor(classes)
        return cls((number, word), (heard_number, heard_word), patches, asked)

    def to(self, device: torch.device) -> "Labels":
        """The same, with its tensors on the device."""
        spoken, heard = ((number.to(device), word.to(device)) for number, word in (self.spoken, self.heard))
        return Labels(spoken, heard, self.patches.to(device), self.asked.to(device))


def _typed(sample: Sample) -> list[list[tuple[int, int]]]:
    """(position, id) of each question of a conversation: what stands before its answers."""
    ends = [start for start, _ in sample.earlier] + [sample.answer_start]
    starts = [0] + [end for _, end in sample.earlier]
    return [[(i, sample.ids[i]) for i in range(a, b)] for a, b in zip(starts, ends, strict=True)]


class Auxiliary(nn.Module):
    """All heads of a model in training. They do not ship."""

    def __init__(self, omni: OmniModel) -> None:
        super().__init__()
        self.grounding = Grounding(omni, GROUNDING_LAYER)
        self.referring = Referring(omni)
        self.spoken = SlotHeads(omni, *SPOKEN_LAYERS)
        self.heard = SlotHeads(omni, *HEARD_LAYERS)

    def losses(self, labels: Labels) -> dict[str, Tensor]:
        """Of the last forward pass."""
        return {
            "seeing": GROUNDING_WEIGHT * self.grounding.loss(labels.patches.flatten(0, 1)),
            "asked": REFERRING_WEIGHT * self.referring.loss(labels.asked.flatten(0, 1)),
            "spoken": SLOT_WEIGHT * self.spoken.loss(*(x.flatten() for x in labels.spoken)),
            "heard": HEARD_WEIGHT * self.heard.loss(*(x.flatten() for x in labels.heard)),
        }
