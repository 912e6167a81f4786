"""Teaches the backbone which thing of a picture a question is about, while it trains.

One answered word says little about how to find one thing among three. So the rows of the words that name a thing in
a question, typed or heard, must also tell its shape, colour, place and size, and whether it is there at all. Only the
training knows these heads; they do not ship.
"""

from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer

from unmask_engine.models.omni import OmniModel
from unmask_training.grounding import NAMED, thing_classes
from unmask_training.naming import IGNORED, NamingHead
from unmask_training.world import COLORS, SHAPES, Scene, Thing

LAYER = 4
_ATTRIBUTES = 4  # of the columns of NAMED: shape, colour, place, size
COLUMNS = _ATTRIBUTES + 1  # and whether the thing is there
_TOLD_BY = ("left", "right", "above", "below")  # what is left of the star
_CLUES = (*SHAPES, *COLORS, *_TOLD_BY, "there")


def word_ids(tokenizer: Tokenizer) -> dict[int, str]:
    """The token ids of the words that tell what a question is about, inside a sentence."""
    ids = {word: tokenizer.encode(f" {word}").ids for word in _CLUES}
    return {tokens[0]: word for word, tokens in ids.items() if len(tokens) == 1}


def question_labels(
    question: Sequence[tuple[int, int]], scene: Scene, words: Mapping[int, str]
) -> dict[int, tuple[int, ...]]:
    """Position -> the classes of the thing, for those of `question`'s (position, token id) that name one."""
    known = [(position, words[token]) for position, token in question if token in words]
    naming = {position: word for position, word in known if word in SHAPES or word in COLORS}
    said = {word for _, word in known}
    shapes, colors = (said & set(SHAPES)), (said & set(COLORS))
    if len(shapes) > 1 or len(colors) > 1 or not naming:
        return {}
    meant = [t for t in scene.things if (not shapes or t.shape in shapes) and (not colors or t.color in colors)]
    if said & set(_TOLD_BY):
        meant = [t for t in scene.things if t not in meant] if len(scene.things) == 2 and len(meant) == 1 else []
    elif "there" not in said and len(meant) != 1:
        return {}
    elif not meant:
        return dict.fromkeys(naming, (*[IGNORED] * _ATTRIBUTES, 0))
    return dict.fromkeys(naming, _classes(meant[0])) if meant else {}


def _classes(thing: Thing) -> tuple[int, ...]:
    return (*thing_classes(thing), 1)


class Referring(NamingHead):
    """The heads on the hidden states after `LAYER` of a model."""

    def __init__(self, omni: OmniModel) -> None:
        super().__init__(omni, LAYER, (*tuple(NAMED.values())[:_ATTRIBUTES], 2))
