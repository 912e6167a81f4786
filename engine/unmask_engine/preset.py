"""A preset: the defaults of one task, as data that a bundle's `bundle.json` carries."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from unmask_engine.request import Algorithm, Modality

TEXT_SLOT = "{text}"  # where a message's content takes the caller's text
AUDIO_SLOT = "<|audio|>"  # where it takes the caller's sound
IMAGE_SLOT = "<|image|>"  # where it takes the caller's image


@dataclass(frozen=True)
class Message:
    """One turn of the prompt template; `content` holds the slots."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Pin:
    """A canvas position given beforehand. `at` counts from the start, negative from the end; else a fraction of N."""

    token: str  # role of a special token: "begin_of_audio"
    at: int | None = None
    at_fraction: float | None = None  # position int(at_fraction * N)
    in_reference: bool = True  # the reference pins it too, so it stays with `reference_compat`

    def __post_init__(self) -> None:
        if (self.at is None) == (self.at_fraction is None):
            raise ValueError(f"pin of {self.token}: give either `at` or `at_fraction`")

    def position(self, canvas: int) -> int:
        """Index in a canvas of that many tokens."""
        if self.at_fraction is not None:
            return int(self.at_fraction * canvas)
        assert self.at is not None
        return self.at if self.at >= 0 else canvas + self.at


@dataclass(frozen=True)
class CanvasRule:
    """Length of the canvas: `tokens`, or a ratio of the caller's text or of the whole prompt; at least `minimum`.

    Speech takes as long as its text has letters, whatever the tokenizer makes of them: `per_character` follows it
    closely, `per_text_token` is the published rule.
    """

    tokens: int | None = None
    per_text_token: float | None = None
    per_prompt_token: float | None = None
    per_character: float | None = None
    extra: int = 0  # on top of the ratio
    minimum: int = 1  # the reference has none: its ratios cut fast speech off (decoding.md, Presets)

    def __post_init__(self) -> None:
        rules = (self.tokens, self.per_text_token, self.per_prompt_token, self.per_character)
        if rules.count(None) != len(rules) - 1:
            raise ValueError(
                "canvas: give exactly one of `tokens`, `per_text_token`, `per_prompt_token`, `per_character`"
            )

    def length(self, text_tokens: int, prompt_tokens: int, characters: int) -> int:
        """Tokens of the canvas by the rule alone, without `minimum`."""
        if self.tokens is not None:
            return self.tokens
        ratios = (
            (self.per_text_token, text_tokens), (self.per_prompt_token, prompt_tokens), (self.per_character, characters)
        )  # fmt: skip
        return max(1, self.extra + sum(int(ratio * size) for ratio, size in ratios if ratio is not None))


@dataclass(frozen=True)
class StepsRule:
    """Number of steps: a fraction of the canvas, or `number`."""

    fraction: float = 1.0
    number: int | None = None

    def steps(self, canvas: int) -> int:
        return self.number if self.number is not None else max(1, int(self.fraction * canvas))


@dataclass(frozen=True)
class Preset:
    task: str
    inputs: tuple[Modality, ...]
    outputs: tuple[Modality, ...]  # in the order in which the canvas holds them
    messages: tuple[Message, ...]
    canvas: CanvasRule
    steps: StepsRule = StepsRule()
    algorithm: Algorithm = "entropy"
    top_p: float = 0.9
    top_k: int = 50  # 0 is off
    algorithm_temperature: float = 0.0
    repetition_penalty: float = 1.0
    position_penalty: float = 1.0
    guidance: float = 0.0
    block_size: int | None = None
    pins: tuple[Pin, ...] = ()
    dialogue: bool = False  # the model is trained on it with earlier turns and with the caller's instructions
    piece_words: int | None = None  # most words of a piece where a long text comes in pieces; None: the server's bound

    def __post_init__(self) -> None:
        for modality in (*self.inputs, *self.outputs):
            if modality not in get_args(Modality):
                raise ValueError(f"preset {self.task}: unknown modality {modality!r}")
        if self.algorithm not in get_args(Algorithm):
            raise ValueError(f"preset {self.task}: unknown algorithm {self.algorithm!r}")
        if self.piece_words is not None and self.piece_words < 1:
            raise ValueError(f"preset {self.task}: piece_words is {self.piece_words}, it must be at least 1")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Preset":
        """Read what `to_json` writes; an unknown or missing field is a TypeError or ValueError that names it."""
        body = dict(data)
        for name in ("inputs", "outputs"):
            if name in body:
                body[name] = tuple(body[name])
        for name, noun in (("messages", Message), ("pins", Pin)):
            if name in body:
                body[name] = tuple(noun(**item) for item in body[name])
        for name, rule in (("canvas", CanvasRule), ("steps", StepsRule)):
            if name in body:
                body[name] = rule(**body[name])
        return cls(**body)

    def to_json(self) -> dict[str, Any]:
        """The preset as JSON values; what has its default is left out."""
        body = _without_defaults(self)
        assert isinstance(body, dict)
        return body


def _without_defaults(value: object) -> Any:
    if isinstance(value, tuple):
        return [_without_defaults(item) for item in value]
    if not isinstance(value, (Message, Pin, CanvasRule, StepsRule, Preset)):
        return value
    present = {field.name: getattr(value, field.name) for field in fields(value)}
    return {
        field.name: _without_defaults(present[field.name])
        for field in fields(value)
        if present[field.name] != field.default
    }
