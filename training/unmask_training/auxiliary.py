"""What helps the small backbone to learn beside its answers: labels of a batch's rows, and the heads that name them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from unmask_engine.models.omni import OmniModel
from unmask_training.grounding import NAMED, Grounding, patch_labels
from unmask_training.naming import IGNORED, Named
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
    """Of T packed rows: of those that have something to name."""

    size: int  # T
    spoken: tuple[Named, Named]  # number and text token of slots of speech
    heard: tuple[Named, Named]  # number and text token of what is recognised
    patches: Named  # what covers each patch of the prompt's picture
    asked: Named  # the thing that a word of a question is about

    @classmethod
    def of(cls, samples: Sequence[Sample], length: int, heard: Sequence[Heard], words: Mapping[int, str]) -> "Labels":
        """Of samples padded to `length`. `heard` is by recording; `words` are the clues of referring.word_ids."""
        shape = (len(samples), length)
        number, word, heard_number, heard_word = (torch.full((*shape, 1), IGNORED) for _ in range(4))
        patches, asked = torch.full((*shape, len(NAMED)), IGNORED), torch.full((*shape, COLUMNS), IGNORED)
        for row, s in enumerate(samples):
            size = len(s.ids)
            said = [] if s.speech is None else [(s.speech_start + at, token) for at, token in heard[s.speech]]
            if s.spoken is not None:
                number[row, :size, 0], word[row, :size, 0] = slot_labels(s.ids, *s.spoken)
            if s.recognised:
                answer = s.ids[s.answer_start : s.answer_start + s.recognised]
                known = heard_labels(size, said, answer, s.answer_start)
                heard_number[row, :size, 0], heard_word[row, :size, 0] = known
            if s.scene is not None:
                grid = patch_labels(s.scene, GRID)
                patches[row, s.image_start : s.image_start + len(grid)] = torch.tensor(grid)
                for question in (said, *_typed(s)):
                    for position, classes in question_labels(question, s.scene, words).items():
                        asked[row, position] = torch.tensor(classes)
        found = [Named.of(x.flatten(0, 1)) for x in (number, word, heard_number, heard_word, patches, asked)]
        return cls(len(samples) * length, (found[0], found[1]), (found[2], found[3]), found[4], found[5])

    @classmethod
    def joined(cls, parts: Sequence["Labels"]) -> "Labels":
        """Of the parts' rows one after the other."""
        ends = [*accumulate((part.size for part in parts), initial=0)]

        def joined(named: Callable[["Labels"], Named]) -> Named:
            found = [named(part) for part in parts]
            rows = torch.cat([first + n.rows for first, n in zip(ends, found, strict=False)])
            return Named(rows, torch.cat([n.classes for n in found]))

        return cls(
            ends[-1],
            (joined(lambda x: x.spoken[0]), joined(lambda x: x.spoken[1])),
            (joined(lambda x: x.heard[0]), joined(lambda x: x.heard[1])),
            joined(lambda x: x.patches),
            joined(lambda x: x.asked),
        )

    def to(self, device: torch.device) -> "Labels":
        """The same, with its tensors on the device."""
        spoken, heard = ((number.to(device), word.to(device)) for number, word in (self.spoken, self.heard))
        return Labels(self.size, spoken, heard, self.patches.to(device), self.asked.to(device))


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
            "seeing": GROUNDING_WEIGHT * self.grounding.loss(labels.patches),
            "asked": REFERRING_WEIGHT * self.referring.loss(labels.asked),
            "spoken": SLOT_WEIGHT * self.spoken.loss(*labels.spoken),
            "heard": HEARD_WEIGHT * self.heard.loss(*labels.heard),
        }
