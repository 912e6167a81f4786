"""The values of a JSON answer: each is a gap of as many tokens as its type should need.

What is written there is read as leniently as possible; where it is no value of the type at all, the answer fails.
"""

import difflib
import json
import re
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, ClassVar, Final

from unmask_engine.request import Begins
from unmask_server.errors import ServerError

TOKENS: Final = {"string": 16, "number": 6, "integer": 4, "boolean": 2, "enum": 8}
CLOSE: Final = 0.6  # of what is written to an option, as difflib measures it
SLIGHT: Final = 0.01  # anything in common, best its beginning: the model could begin with one of the options only
NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d{1,2})?")
INTEGER: Final = re.compile(r"-?(?:0|[1-9]\d*)")
ITEM: Final = re.compile(r'\s*("(?:[^"\\]|\\.)*"?|[^,\]\n"]+)\s*(,?)')


@dataclass(frozen=True)
class Given:
    value: Any


@dataclass(frozen=True)
class Gap:
    kind: str  # of TOKENS
    name: str  # the path to it
    options: tuple[Any, ...] = ()  # of an enum
    least: int | None = None  # of an integer
    most: int | None = None
    max_length: int | None = None  # of a string, which is cut there

    @property
    def tokens(self) -> int:
        return TOKENS[self.kind]

    @property
    def begins(self) -> Begins | None:
        """What the model may begin with, so that there is a value to read; None: any text is a string."""
        if self.kind == "string":
            return None
        if self.kind in ("number", "integer"):
            return Begins(number=True)
        return Begins(tuple(json.dumps(option, ensure_ascii=False) for option in self._options))

    def read(self, text: str, likeness: float = SLIGHT) -> Any:
        """The value that was written; raises ServerError where there is none, or none so like (0 to 1) an option."""
        text = text.strip()
        if self.kind == "string":
            return _string(text)[: self.max_length]
        if self.kind == "number" and (found := NUMBER.search(text)):
            return json.loads(found[0])
        if self.kind == "integer" and (found := INTEGER.search(text)) and self._is_within(int(found[0])):
            return int(found[0])
        if self.kind == "boolean" and (found := re.search("true|false", text.lower())):
            return found[0] == "true"
        if self.kind in ("boolean", "enum"):
            written = _string(text)
            if whole := [name for name in self._by_name if name and written.startswith(name)]:
                return self._by_name[max(whole, key=len)]
            shared = {name: _num_shared(name, written) for name in self._by_name}
            if likeness <= SLIGHT and any(shared.values()):
                return self._by_name[max(shared, key=lambda name: shared[name])]
            if names := difflib.get_close_matches(written, self._by_name, 1, likeness):
                return self._by_name[names[0]]
        raise _no_value(self.kind, self.name)

    def fits(self, text: str) -> bool:
        """Whether a text without white space around it begins as such a value does."""
        if self.kind == "string":
            return text.startswith('"')
        if self.kind == "boolean":
            return text.lower().startswith(("true", "false"))
        if self.kind == "enum":
            return any(re.match(rf'"?{re.escape(name)}(?!\w)', text) for name in self._by_name)
        number = NUMBER.match(text)
        return number is not None and (self.kind == "number" or INTEGER.fullmatch(number[0]) is not None)

    def _is_within(self, number: int) -> bool:
        return (self.least is None or number >= self.least) and (self.most is None or number <= self.most)

    @property
    def _options(self) -> tuple[Any, ...]:
        return (True, False) if self.kind == "boolean" else self.options

    @property
    def _by_name(self) -> dict[str, Any]:
        return {option if isinstance(option, str) else json.dumps(option): option for option in self._options}


@dataclass(frozen=True)
class Choice:
    """A value of one of several types, the model's choice."""

    name: str
    options: tuple[Gap, ...]

    @property
    def tokens(self) -> int:
        return max(option.tokens for option in self.options)

    @property
    def begins(self) -> Begins | None:
        """As of one of the options."""
        begins = [option.begins for option in self.options]
        given = [begin for begin in begins if begin is not None]
        if len(given) < len(begins):
            return None
        return Begins(tuple(word for begin in given for word in begin.words), any(begin.number for begin in given))

    def read(self, text: str) -> Any:
        """As the first option that it looks like, else as the first that can be read out of it."""
        text = text.strip()
        for likeness in (CLOSE, SLIGHT):
            for option in sorted(self.options, key=lambda option: not option.fits(text)):
                try:
                    return option.read(text, likeness)
                except ServerError:
                    continue
        raise _no_value("value", self.name)


@dataclass(frozen=True)
class Rest:
    """As many more items of an array as the model writes, up to `most`; none is no mistake."""

    item: Gap | Choice
    most: int

    begins: ClassVar[None] = None  # with any text, or none

    @property
    def tokens(self) -> int:
        return self.most * self.item.tokens

    def read(self, text: str) -> list[Any]:
        values: list[Any] = []
        at, goes_on = 0, True
        while goes_on and len(values) < self.most and (found := ITEM.match(text, at)) and found[1].strip():
            try:
                values.append(self.item.read(found[1]))
            except ServerError:
                break
            at, goes_on = found.end(), bool(found[2])
        return values


def _string(text: str) -> str:
    """A JSON string, whatever follows it; else the text up to a quote."""
    if text.startswith('"'):
        try:
            found: str = json.JSONDecoder().raw_decode(text)[0]
            return found.encode(errors="replace").decode()  # an escape may be half a character
        except ValueError:
            text = text[1:]
    return re.split(r'["\n]', text, maxsplit=1)[0].strip()


def _num_shared(name: str, written: str) -> int:
    """Characters at the beginning that are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(name, written, strict=False)))


def _no_value(kind: str, name: str) -> ServerError:
    message = f"The model wrote no {kind} for {name}; ask again, with another seed or more steps."
    return ServerError(500, message, "invalid_output", {"x-should-retry": "false"})
