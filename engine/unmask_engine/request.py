"""The nouns of a generation: what goes in, what comes out. Samples and pixels, no bytes, no HTTP."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

MAX_CANVAS_TOKENS: Final = 2048

Modality = Literal["text", "audio", "image"]
Algorithm = Literal["entropy", "entropy-penalty", "maskgit_plus", "topk_margin", "origin"]


@dataclass(frozen=True)
class TextPart:
    text: str


@dataclass(frozen=True)
class ImagePart:
    pixels: NDArray[np.uint8]  # (H, W, 3) RGB


@dataclass(frozen=True)
class AudioPart:
    samples: NDArray[np.float32]  # (T,) mono in [-1, 1]
    sample_rate: int  # Hz


Part = TextPart | ImagePart | AudioPart


@dataclass(frozen=True)
class Decoding:
    """What a caller may override; None takes the preset's value. Units and ranges: docs of `POST /v1/generate`."""

    steps: int | None = None
    max_tokens: int | None = None
    block_size: int | None = None
    algorithm: Algorithm | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    algorithm_temperature: float | None = None
    repetition_penalty: float | None = None
    position_penalty: float | None = None
    guidance: float | None = None
    seed: int | None = None
    deadline_ms: float | None = None
    constrain: bool = True
    reference_compat: bool = False


@dataclass(frozen=True)
class Turn:
    """An earlier message of a dialogue. Of its media as much is in the prompt as there is room for (encode.py)."""

    role: Literal["system", "user", "assistant"]
    text: str
    media: tuple[AudioPart | ImagePart, ...] = ()  # a user's; what the text does not say of them


@dataclass(frozen=True)
class Span:
    """Seconds of a recording to be said anew."""

    start: float
    end: float
    text: str | None = None  # what is to be heard there; the whole wording is the request's text


@dataclass(frozen=True)
class WordSpan:
    """Words of a recording to be said anew: found in its transcript, the first time after the span before."""

    words: str
    text: str | None = None  # as of Span


@dataclass(frozen=True)
class Begins:
    """What a hole in a text begins with: one of the words, or the digits of a number."""

    words: tuple[str, ...] = ()
    number: bool = False


@dataclass(frozen=True)
class Edit:
    """What is to be made anew in something given; all else of it comes back as it is.

    An image takes a mask, a recording spans, a text has holes `[MASK:n]` of n tokens each.
    """

    target: Part
    mask: NDArray[np.bool_] | None = None  # (H, W) of the image, True where it is to be drawn anew
    spans: tuple[Span | WordSpan, ...] = ()
    transcript: str | None = None  # what the recording says, for spans of words
    begins: tuple[Begins | None, ...] = ()  # of each hole; None, or none of them: with anything


@dataclass(frozen=True)
class Whole:
    """A target of which nothing is given: it is made as from nothing, but fits the others."""

    modality: Modality


@dataclass(frozen=True)
class JointEdit:
    """Several targets that belong together, at most one of a kind. A target without mask, span or hole is given whole.

    Not every target has to have something to be made, but one of them does.
    """

    edits: tuple[Edit | Whole, ...]


@dataclass(frozen=True)
class GenerationRequest:
    parts: tuple[Part, ...]
    outputs: tuple[Modality, ...]
    task: str = "auto"
    instructions: str | None = None
    decoding: Decoding = field(default_factory=Decoding)
    history: tuple[Turn, ...] = ()  # what was said before `parts`
    edit: Edit | JointEdit | None = None  # `parts` say what is to be there; a joint edit may do without
    word_times: bool = False  # the answer tells when its words are said

    @property
    def picture_edit(self) -> Edit | None:
        """What a picture that is drawn is put into, if anything."""
        edits = self.edit.edits if isinstance(self.edit, JointEdit) else (self.edit,)
        masked = (edit for edit in edits if isinstance(edit, Edit) and edit.mask is not None)
        return next(masked, None)


@dataclass(frozen=True)
class Usage:
    input_tokens: dict[Modality, int]
    output_tokens: dict[Modality, int]
    steps: int
    forward_passes: int


@dataclass(frozen=True)
class Timings:
    """Milliseconds."""

    encode_ms: float
    decode_ms: float
    media_ms: float


@dataclass(frozen=True)
class Word:
    """A word of a recording and the seconds in which it is said."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class TextToken:
    text: str
    confidence: float | None  # when it was committed; None where it was given


@dataclass(frozen=True)
class Generation:
    """The finished answer of one request."""

    task: str
    token_ids: tuple[int, ...]  # the whole canvas, as committed
    confidence: tuple[float | None, ...]  # of each token when it was committed; None where it was given
    text: str | None
    audio: AudioPart | None
    image: ImagePart | None
    truncated: bool  # the canvas filled up before the end mark
    usage: Usage
    timings: Timings
    text_tokens: tuple[TextToken, ...] = ()  # of `text`
    words: tuple[Word, ...] = ()  # where `word_times` asks for them and they can be found
    cancelled: bool = False  # stopped by its caller: what is there may be incomplete, an image is left out


@dataclass(frozen=True)
class Tokens:
    """Canvas positions with their ids and confidence, and what the ids say."""

    positions: tuple[int, ...]
    ids: tuple[int, ...]
    confidence: tuple[float, ...]
    texts: tuple[str | None, ...] = ()  # "" for a special token, None for a code of speech or of an image


@dataclass(frozen=True)
class Progress:
    """What there is of an answer after a step. Committed tokens are final, so text and speech only ever grow."""

    step: int  # done
    steps: int  # planned; an early end may need fewer
    committed: int  # canvas positions, pins included
    total: int
    commits: Tokens  # of this step
    guesses: Tokens  # what else the model would have said in it
    text: str | None  # of the first committed positions, whole words
    audio: tuple[int, ...]  # speech codes of the first committed positions
    image: tuple[int, ...]  # image codes, guessed where nothing is committed


class RequestError(ValueError):
    """A caller's mistake: what is wrong and what is allowed, safe to show.

    `param` names the offending field (`decoding.steps`), `code` is a stable machine-readable word.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(RequestError, param=self.param, code=self.code), (self.message,)
