"""JSON to a schema: its skeleton is given, the model fills in the values. Keys are never generated.

The items that an array must have are part of the skeleton; of scalars the model may write some more.
"""

import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from unmask_engine.request import Edit, Generation, GenerationRequest, Progress, RequestError, TextPart
from unmask_server.engine_client import Event, Finished
from unmask_server.openai_json_values import Choice, Gap, Given, Rest

MAX_DEPTH: Final = 8
MAX_NODES: Final = 256
MORE_ITEMS: Final = 8  # of an array, than it must have
STRUCTURE: Final = (
    *("type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems"),
    *("enum", "const", "anyOf", "$ref", "$defs"),
)
KINDS: Final = ("type", "properties", "items", "enum", "const")  # what may not stand beside anyOf
BOUNDS: Final = {"minimum": "integer", "maximum": "integer", "maxLength": "string"}  # and what they may bound
FEW_INTEGERS: Final = 128  # between its bounds: the model chooses among them
COMMENT: Final = ("$schema", "title", "description", "default", "examples")


@dataclass(frozen=True)
class Items:
    """Of an array."""

    first: tuple["Node", ...]
    rest: Rest | None = None


Node: TypeAlias = "Gap | Choice | Given | Items | dict[str, Node]"


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
        return replace(work, edit=Edit(TextPart(self._text), begins=tuple(gap.begins for gap in _gaps(self._node))))

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
        if unknown := sorted(schema.keys() - {*STRUCTURE, *BOUNDS, *COMMENT}):
            raise _unsupported(f"has {unknown[0]}, which is not supported", param)
        _check_bounds(schema, param)
        if "const" in schema:
            if not _is_json(schema["const"]):
                raise _unsupported("must have finite numbers in const", param)
            return Given(schema["const"])
        if "enum" in schema:
            options = schema["enum"]
            if not isinstance(options, list) or not options or any(isinstance(x, list | dict) for x in options):
                raise _unsupported("must list scalars in enum", param)
            if not _is_json(options):
                raise _unsupported("must have finite numbers in enum", param)
            return Gap("enum", param, tuple(options))
        if "anyOf" in schema:
            if beside := sorted(schema.keys() & KINDS):
                raise _unsupported(f"has {beside[0]} beside anyOf, which is not supported", param)
            return self._any_of(schema["anyOf"], f"{param}.anyOf", depth)
        kind = schema.get("type")
        if isinstance(kind, list):
            each = [{k: v for k, v in schema.items() if BOUNDS.get(k, one) == one} | {"type": one} for one in kind]
            return self._any_of(each, f"{param}.type", depth)
        if kind == "array":
            return self._array(schema, param, depth)
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
                f"has the type {kind!r}; there are object, array, string, number, integer, boolean, null", param
            )
        least, most = schema.get("minimum"), schema.get("maximum")
        if least is not None and most is not None and most - least < FEW_INTEGERS:
            return Gap("enum", param, tuple(range(least, most + 1)))
        return Gap(kind, param, least=least, most=most, max_length=schema.get("maxLength"))

    def _any_of(self, schemas: Any, param: str, depth: int) -> Node:
        """Scalars are the model's choice. What has a skeleton must be the only one, null aside, and is always given."""
        if not isinstance(schemas, list) or not schemas:
            raise _unsupported("must list what there is to choose from", param)
        built = [self._build(inner, f"{param}.{i}", depth + 1) for i, inner in enumerate(schemas)]
        gaps: list[Gap] = []
        for node in built:
            if isinstance(node, Gap | Choice):
                gaps += node.options if isinstance(node, Choice) else [node]
            elif isinstance(node, Given) and not isinstance(node.value, list | dict):
                gaps.append(Gap("enum", param, (node.value,)))
            elif any(other != Given(None) for other in built if other is not node):
                raise _unsupported("has an object or an array beside others; only null may be beside it", param)
            else:
                return node
        return built[0] if len(built) == 1 else Choice(param, tuple(gaps))

    def _array(self, schema: Mapping[str, Any], param: str, depth: int) -> Items:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if not _is_count(least) or not (most is None or (_is_count(most) and most >= least)):
            raise _unsupported("must have numbers in minItems and maxItems, the latter no less", param)
        if "items" not in schema:
            raise _unsupported("must say in items what they are", param)
        before = self._num_nodes
        item = self._build(schema["items"], f"{param}.items", depth + 1)
        if isinstance(item, Gap | Choice):
            number, more = least, MORE_ITEMS if most is None else min(most - least, MORE_ITEMS)
            rest = Rest(item, more) if more else None
        elif most is None:
            raise _unsupported("needs maxItems, the number of items that it will have: they are no scalars", param)
        else:
            number, rest = most, None
        self._num_nodes += number * (self._num_nodes - before)
        if self._num_nodes > MAX_NODES:
            raise _unsupported(f"has too many items: an answer has up to {MAX_NODES} values", param)
        return Items((item,) * number, rest)

    def _resolved(self, ref: Any, param: str) -> Any:
        """Only what the schema itself defines: `#/$defs/Name`."""
        definitions = self._root.get("$defs")
        name = ref.removeprefix("#/$defs/") if isinstance(ref, str) else None
        if not isinstance(definitions, Mapping) or name not in definitions:
            raise _unsupported("has a $ref that is not in #/$defs", param)
        return definitions[name]


def _is_json(value: Any) -> bool:
    """It has no NaN and no infinity."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _check_bounds(schema: Mapping[str, Any], param: str) -> None:
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    for name in BOUNDS.keys() & schema.keys():
        if BOUNDS[name] not in kinds or schema.keys() & {"enum", "const", "anyOf"}:
            raise _unsupported(f"has {name}, which is supported for the type {BOUNDS[name]} alone", param)
    given = [schema[name] for name in ("minimum", "maximum") if name in schema]
    if not all(isinstance(bound, int) and not isinstance(bound, bool) for bound in given) or given != sorted(given):
        raise _unsupported("must have integers in minimum and maximum, the latter no less", param)
    if "maxLength" in schema and not _is_count(schema["maxLength"]):
        raise _unsupported("must have a number in maxLength", param)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _render(node: "Node | Rest", *, gaps: bool = True) -> str:
    if isinstance(node, Gap | Choice | Rest):
        return f"[MASK:{node.tokens}]" if gaps else ""
    if isinstance(node, Given):
        return json.dumps(node.value, ensure_ascii=False)
    if isinstance(node, Items):
        items: list[Node | Rest] = [*node.first, *([node.rest] if node.rest is not None else [])]
        return "[" + ", ".join(_render(item, gaps=gaps) for item in items) + "]"
    inner = (f"{json.dumps(key, ensure_ascii=False)}: {_render(value, gaps=gaps)}" for key, value in node.items())
    return "{" + ", ".join(inner) + "}"


def _gaps(node: Node) -> Iterator[Gap | Choice | Rest]:
    """In the order of the text."""
    if isinstance(node, Gap | Choice):
        yield node
    elif isinstance(node, Items):
        for item in node.first:
            yield from _gaps(item)
        if node.rest is not None:
            yield node.rest
    elif isinstance(node, dict):
        for inner in node.values():
            yield from _gaps(inner)


def _filled(node: Node, texts: Iterator[str]) -> Any:
    if isinstance(node, Gap | Choice):
        return node.read(next(texts))
    if isinstance(node, Items):
        first = [_filled(item, texts) for item in node.first]
        return first if node.rest is None else first + node.rest.read(next(texts))
    if isinstance(node, Given):
        return node.value
    return {key: _filled(value, texts) for key, value in node.items()}


def _unsupported(what: str, param: str) -> RequestError:
    return RequestError(f"{param} {what}.", param=param, code="schema_unsupported")
