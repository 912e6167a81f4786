"""JSON to a schema: its skeleton is given, the model fills in the values. Keys are never generated.

Each value is a gap of as many tokens as its type should need. What is written there is read as leniently as possible;
where it is no value of the type at all, the answer fails.
"""

import difflib
import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from unmask_engine.request import Edit, Generation, GenerationRequest, Progress, RequestError, TextPart
from unmask_server.bridge import Event, Finished
from unmask_server.errors import ServerError

MAX_DEPTH: Final = 8
TOKENS: Final = {"string": 16, "number": 6, "integer": 4, "boolean": 2, "enum": 8}
MAX_NODES: Final = 256
STRUCTURE: Final = ("type", "properties", "required", "additionalProperties", "enum", "const", "$ref", "$defs")
COMMENT: Final = ("$schema", "title", "description", "default", "examples")
NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d{1,2})?")
INTEGER: Final = re.compile(r"-?(?:0|[1-9]\d*)")


@dataclass(frozen=True)
class Gap:
    kind: str  # of TOKENS
    name: str  # the path to it
    options: tuple[Any, ...] = ()  # of an enum

    def read(self, text: str) -> Any:
        """The value that was written; raises ServerError where there is none."""
        text = text.strip()
        if self.kind == "string":
            return _string(text)
        if self.kind == "number" and (found := NUMBER.search(text)):
            return json.loads(found[0])
        if self.kind == "integer" and (found := INTEGER.search(text)):
            return int(found[0])
        if self.kind == "boolean" and (found := re.search("true|false", text.lower())):
            return found[0] == "true"
        if self.kind == "enum":
            by_name = {str(option): option for option in self.options}
            if names := difflib.get_close_matches(_string(text), by_name, 1):
                return by_name[names[0]]
        message = f"The model wrote no {self.kind} for {self.name}; ask again, with another seed or more steps."
        raise ServerError(500, message, "invalid_output", {"x-should-retry": "false"})


@dataclass(frozen=True)
class Given:
    value: Any


Node: TypeAlias = "Gap | Given | dict[str, Node]"


def template_for(type: str, schema: Mapping[str, Any] | None, param: str) -> "JsonTemplate | None":
    """Of a response format, which stands at `param`; None for text."""
    if type == "text":
        return None
    if type != "json_schema" or schema is None:
        message = f"{param}: JSON needs type json_schema and a schema, whose values are then filled in."
        raise RequestError(message, param=param, code="not_supported")
    return JsonTemplate(schema, f"{param}.schema")


class JsonTemplate:
    def __init__(self, schema: Mapping[str, Any], param: str) -> None:
        """Raises RequestError for a schema that cannot be filled in; it stands at `param` of the request."""
        self._root = schema
        self._num_nodes = 0
        self._node = self._build(schema, param, 0)
        self._text = _render(self._node)
        if "[MASK" in _render(self._node, gaps=False):
            raise _unsupported("may not hold [MASK, in keys and constants neither", param)
        if "[MASK" not in self._text:
            raise _unsupported("leaves no value to fill in", param)

    def asked(self, work: GenerationRequest) -> GenerationRequest:
        return replace(work, edit=Edit(TextPart(self._text)))

    def answered(self, generation: Generation) -> Generation:
        given = re.split(r"\[MASK:\d+\]", self._text)
        found = re.fullmatch("(.*?)".join(map(re.escape, given)), generation.text or "", re.DOTALL)
        assert found is not None  # an edit leaves what is given as it is
        value = _filled(self._node, iter(found.groups()))
        return replace(generation, text=json.dumps(value, ensure_ascii=False))

    async def answered_events(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        """Without the progress: the values are read when all of them are there."""
        try:
            async for event in events:
                if isinstance(event, Finished):
                    yield replace(event, generation=self.answered(event.generation))
                elif not isinstance(event, Progress):
                    yield event
        finally:
            await events.aclose()

    def _build(self, schema: Any, param: str, depth: int) -> Node:
        self._num_nodes += 1
        if not isinstance(schema, Mapping) or depth > MAX_DEPTH or self._num_nodes > MAX_NODES:
            raise _unsupported(f"is no object, or one of more than {MAX_NODES} values or {MAX_DEPTH} levels", param)
        if "$ref" in schema:
            return self._build(self._resolved(schema["$ref"], param), param, depth + 1)
        if unknown := sorted(schema.keys() - {*STRUCTURE, *COMMENT}):
            raise _unsupported(f"has {unknown[0]}, which is not supported", param)
        if "const" in schema:
            return Given(schema["const"])
        if "enum" in schema:
            options = schema["enum"]
            if not isinstance(options, list) or not options or any(isinstance(x, list | dict) for x in options):
                raise _unsupported("must list scalars in enum", param)
            return Gap("enum", param, tuple(options))
        kind = schema.get("type")
        if kind == "object":
            properties = schema.get("properties", {})
            if not isinstance(properties, Mapping):
                raise _unsupported("must have an object in properties", param)
            return {
                key: self._build(inner, f"{param}.properties.{key}", depth + 1) for key, inner in properties.items()
            }
        if kind == "null":
            return Given(None)
        if kind not in ("string", "number", "integer", "boolean"):
            raise _unsupported(
                f"has the type {kind!r}; there are object, string, number, integer, boolean, null", param
            )
        return Gap(kind, param)

    def _resolved(self, ref: Any, param: str) -> Any:
        """Only what the schema itself defines: `#/$defs/Name`."""
        definitions = self._root.get("$defs")
        name = ref.removeprefix("#/$defs/") if isinstance(ref, str) else None
        if not isinstance(definitions, Mapping) or name not in definitions:
            raise _unsupported("has a $ref that is not in #/$defs", param)
        return definitions[name]


def _render(node: Node, *, gaps: bool = True) -> str:
    if isinstance(node, Gap):
        return f"[MASK:{TOKENS[node.kind]}]" if gaps else ""
    if isinstance(node, Given):
        return json.dumps(node.value, ensure_ascii=False)
    inner = (f"{json.dumps(key, ensure_ascii=False)}: {_render(value, gaps=gaps)}" for key, value in node.items())
    return "{" + ", ".join(inner) + "}"


def _filled(node: Node, texts: Iterator[str]) -> Any:
    if isinstance(node, Gap):
        return node.read(next(texts))
    if isinstance(node, Given):
        return node.value
    return {key: _filled(value, texts) for key, value in node.items()}


def _string(text: str) -> str:
    """A JSON string, whatever follows it; else the text up to a quote."""
    if text.startswith('"'):
        try:
            found: str = json.JSONDecoder().raw_decode(text)[0]
            return found.encode(errors="replace").decode()  # an escape may be half a character
        except ValueError:
            text = text[1:]
    return re.split(r'["\n]', text, maxsplit=1)[0].strip()


def _unsupported(what: str, param: str) -> RequestError:
    return RequestError(f"{param} {what}.", param=param, code="schema_unsupported")
