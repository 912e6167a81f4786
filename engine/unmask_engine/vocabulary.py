"""The ids the engine must know by name: special tokens by role, and the code ranges of the codecs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from unmask_engine.bundle import Tokens


@dataclass(frozen=True)
class Vocabulary:
    """Roles every bundle has: mask, pad, im_start, im_end, newline and begin_/end_of_audio, begin_/end_of_image."""

    size: int
    special: Mapping[str, int]  # role -> id
    audio: range  # ids of the speech codes, in order
    image: range  # ids of the image codes, in order

    @classmethod
    def build(
        cls, tokens: Tokens, size: int, id_of: Callable[[str], int], encode_plain: Callable[[str], Sequence[int]]
    ) -> "Vocabulary":
        """Ids of a bundle's tokens; `size` is the number of rows of the head."""
        (newline,) = encode_plain("\n")
        audio, image = id_of(tokens.audio.first), id_of(tokens.image.first)
        return cls(
            size=size,
            special={role: id_of(token) for role, token in tokens.special.items()} | {"newline": newline},
            audio=range(audio, audio + tokens.audio.count),
            image=range(image, image + tokens.image.count),
        )

    @property
    def mask(self) -> int:
        return self.special["mask"]

    @property
    def pad(self) -> int:
        return self.special["pad"]

    @property
    def end(self) -> int:
        """The end mark of an answer."""
        return self.special["im_end"]

    @property
    def everything(self) -> tuple[tuple[int, int], ...]:
        """What an unconstrained position may hold, as half-open ranges."""
        return ((0, self.size),)

    @property
    def text(self) -> tuple[tuple[int, int], ...]:
        """What a position amid text may hold: tokenizers number their ordinary tokens first, the added ones after."""
        added = [token for role, token in self.special.items() if role != "newline"]
        return ((0, min(*added, self.audio.start, self.image.start)),)

    @property
    def audio_codes(self) -> tuple[tuple[int, int], ...]:
        """What a position amid speech may hold: speech codes only."""
        return (_range(self.audio),)

    @property
    def audio_span(self) -> tuple[tuple[int, int], ...]:
        """What a position of a spoken answer may hold: speech codes and the tokens that frame and end them."""
        frame = ("begin_of_audio", "end_of_audio", "im_end", "newline", "pad")
        return (_range(self.audio), *sorted((self.special[role], self.special[role] + 1) for role in frame))

    @property
    def image_span(self) -> tuple[tuple[int, int], ...]:
        """What a position of a framed image may hold: image codes only."""
        return (_range(self.image),)


def _range(ids: range) -> tuple[int, int]:
    return (ids.start, ids.stop)
