"""Answers to a schema. The fake engine answers with what it is asked: here, the JSON as a model would fill it in."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

from unmask_engine.request import Begins, Edit, Generation, GenerationRequest, RequestError, TextPart, Timings, Usage
from unmask_server.errors import ServerError
from unmask_server.openai_json import JsonTemplate
from unmask_server.openai_json_values import Choice, Gap, Rest


class Size(BaseModel):
    width: int
    height: float


class Thing(BaseModel):
    name: str
    colour: Literal["red", "green"]
    is_round: bool
    size: Size
    inner: Size


ANSWER = (
    '{"name": "a \\"ball\\"" , "x, "colour": red., "is_round": True!, '
    '"size": {"width":  12 cm, "height": 1.5e1}, "inner": {"width": -3, "height": 0}}'
)
THING = {
    "name": 'a "ball"',
    "colour": "red",
    "is_round": True,
    "size": {"width": 12, "height": 15.0},
    "inner": {"width": -3, "height": 0.0},
}
STRING = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.fixture(scope="module")
def api(client: httpx.Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="-", max_retries=0) as api:
        yield api


def test_the_clients_parser_gets_its_type(api: OpenAI, engine: Any) -> None:
    answer = api.chat.completions.parse(
        model="fake", messages=[{"role": "user", "content": ANSWER}], response_format=Thing
    )
    assert answer.choices[0].message.parsed == Thing.model_validate(THING)
    number = Begins(number=True)
    assert engine.requests[-1].edit == Edit(
        TextPart(
            '{"name": [MASK:16], "colour": [MASK:8], "is_round": [MASK:2], '
            '"size": {"width": [MASK:4], "height": [MASK:6]}, "inner": {"width": [MASK:4], "height": [MASK:6]}}'
        ),
        begins=(None, Begins(('"red"', '"green"')), Begins(("true", "false")), number, number, number, number),
    )


@pytest.mark.parametrize(
    ("schema", "begins", "read"),
    [
        ({"type": "integer", "minimum": 0}, Begins(number=True), {"12 cm": 12, "-3": None}),
        ({"type": "integer", "minimum": 0, "maximum": 500}, Begins(number=True), {"500": 500, "501": None}),
        ({"type": "integer", "minimum": -1, "maximum": 1}, Begins(("-1", "0", "1")), {"-1": -1, "1.": 1, "7": None}),
        ({"type": "integer", "minimum": 9, "maximum": 11}, Begins(("9", "10", "11")), {"11, ": 11, "90": 9}),
        ({"type": "string", "maxLength": 3}, None, {'"four"': "fou", "a": "a"}),
        (
            {"type": ["integer", "null"], "maximum": 5},
            Begins(("null",), number=True),
            {"4": 4, "null": None, "6": None},
        ),
    ],
)
def test_values_are_within_their_bounds(schema: dict[str, Any], begins: Begins | None, read: dict[str, Any]) -> None:
    """An integer beyond them is no value; a string is cut."""
    template = JsonTemplate({"type": "object", "properties": {"a": schema}}, "schema")
    edit = template.asked(GenerationRequest((), ("text",))).edit
    assert isinstance(edit, Edit)
    assert edit.begins == (begins,)
    for written, value in read.items():
        text = f'{{"a": {written}}}'
        generation = Generation("edit", (), (), text, None, None, False, Usage({}, {}, 1, 1), Timings(0.0, 0.0, 0.0))
        if value is None and written != "null":
            with pytest.raises(ServerError, match="no "):
                template.answered(generation)
        else:
            assert json.loads(template.answered(generation).text or "") == {"a": value}


class Shelf(BaseModel):
    label: str | None
    tags: list[str]
    marks: list[int] = Field(min_length=2, max_length=2)
    sizes: list[Size] = Field(min_length=1, max_length=2)
    more: list[Literal["red", "green"]] = Field(min_length=1, max_length=2)
    lid: Size | None


SHELF = (
    '{"label": null, "tags": ["a, b" , blue, "c"], "d"], "marks": [ 1., -2 cm], '
    '"sizes": [{"width": 1, "height": 2}, {"width": 3, "height": 4}], '
    '"more": ["red", green, red], "lid": {"width": 5, "height": 6}}'
)


def test_lists_and_what_may_be_null(api: OpenAI, engine: Any) -> None:
    """Of a list of scalars the model says how long it is; of objects there are as many as there may be."""
    answer = api.chat.completions.parse(
        model="fake", messages=[{"role": "user", "content": SHELF}], response_format=Shelf
    )
    sizes = [Size(width=1, height=2), Size(width=3, height=4)]
    assert answer.choices[0].message.parsed == Shelf(
        label=None,
        tags=["a, b", "blue", "c"],
        marks=[1, -2],
        sizes=sizes,
        more=["red", "green"],
        lid=Size(width=5, height=6),
    )
    size = '{"width": [MASK:4], "height": [MASK:6]}'
    assert engine.requests[-1].edit == Edit(
        TextPart(
            f'{{"label": [MASK:16], "tags": [[MASK:128]], "marks": [[MASK:4], [MASK:4]], "sizes": [{size}, {size}], '
            f'"more": [[MASK:8], [MASK:8]], "lid": {size}}}'
        ),
        begins=(None, None, *[Begins(number=True)] * 6, Begins(('"red"', '"green"')), None, *[Begins(number=True)] * 2),
    )


def test_a_list_without_bounds_of_objects_is_refused_with_what_it_needs(api: OpenAI) -> None:
    class Pile(BaseModel):
        sizes: list[Size]

    with pytest.raises(openai.BadRequestError, match="sizes needs maxItems") as caught:
        api.chat.completions.parse(model="fake", messages=[{"role": "user", "content": "x"}], response_format=Pile)
    assert caught.value.code == "schema_unsupported"


MAYBE = Choice("x", (Gap("integer", "x"), Gap("number", "x"), Gap("enum", "x", (None,))))
EITHER = Choice("x", (Gap("boolean", "x"), Gap("string", "x")))


@pytest.mark.parametrize(
    ("choice", "text", "value"),
    [
        (MAYBE, " 12,", 12),
        (MAYBE, "1.5", 1.5),
        (MAYBE, "null, 3", None),
        (MAYBE, "about 7", 7),
        (EITHER, '"true"', "true"),
        (EITHER, "true", True),
        (EITHER, "red", "red"),
        (Choice("x", (Gap("enum", "x", (None,)), Gap("string", "x"))), "blue", "blue"),
        (Choice("x", (Gap("integer", "x"), Gap("enum", "x", (None,)))), "nul", None),
    ],
)
def test_a_choice_is_what_it_looks_like(choice: Choice, text: str, value: Any) -> None:
    assert (choice.read(text), type(choice.read(text))) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "values"),
    [("", []), ("], ", []), (" , 1", []), ("1, 2 3, 4, 5, 6", [1, 2, 4]), ("1, x", [1]), ("1 ], 2", [1]), ("\n", [])],
)
def test_as_many_items_as_were_written(text: str, values: list[int]) -> None:
    assert Rest(Gap("integer", "x"), 3).read(text) == values


def test_streams_and_responses_say_the_same(api: OpenAI) -> None:
    with api.chat.completions.stream(
        model="fake", messages=[{"role": "user", "content": ANSWER}], response_format=Thing
    ) as events:
        message = events.get_final_completion().choices[0].message
    assert json.loads(message.content or "") == THING
    parsed = api.responses.parse(model="fake", input=ANSWER, text_format=Thing)
    assert parsed.output_parsed == Thing.model_validate(THING)
    with api.responses.stream(model="fake", input=ANSWER, text_format=Thing) as response_events:
        assert json.loads(response_events.get_final_response().output_text) == THING


@pytest.mark.parametrize(
    ("gap", "text", "value"),
    [
        (Gap("string", "x"), ' "a\\nb" , "c"', "a\nb"),
        (Gap("string", "x"), 'red", "b', "red"),
        (Gap("string", "x"), '"cut', "cut"),
        (Gap("string", "x"), '"\\ud800"', "?"),
        (Gap("string", "x"), "", ""),
        (Gap("integer", "x"), " 007", 0),
        (Gap("number", "x"), "about 2.50 m", 2.5),
        (Gap("boolean", "x"), "False, true", False),
        (Gap("enum", "x", (1, "two", None)), '"two"', "two"),
        (Gap("enum", "x", (1, "two", None)), " 1", 1),
        (Gap("enum", "x", (True, None)), "null", None),
        (Gap("enum", "x", ("green", "blue")), "gren", "green"),
        (Gap("enum", "x", ("green", "greenish")), '"greenish red"', "greenish"),
        (Gap("enum", "x", ("circle", "square")), "circle of a kind", "circle"),
        (Gap("boolean", "x"), "tr", True),
        (Gap("boolean", "x"), "t, false-like", False),
        (Gap("boolean", "x"), "t, fals", True),
        (Gap("enum", "x", ("circle", "square")), '"cquare', "circle"),
    ],
)
def test_values_are_read_leniently(gap: Gap, text: str, value: Any) -> None:
    assert gap.read(text) == value


@pytest.mark.parametrize("gap", [Gap("integer", "x"), Gap("boolean", "x"), Gap("enum", "x", ("a", "b"))])
def test_what_is_no_value_fails(gap: Gap) -> None:
    with pytest.raises(ServerError, match="ask again") as caught:
        gap.read("zzz")
    assert caught.value.code == "invalid_output"
    assert caught.value.headers == {"x-should-retry": "false"}


def test_what_a_gap_begins_with_is_what_its_value_begins_with() -> None:
    assert Gap("string", "x").begins is None
    assert EITHER.begins is None
    assert MAYBE.begins == Begins(("null",), number=True)
    assert Gap("enum", "x", (1, "two", None)).begins == Begins(("1", '"two"', "null"))


def test_constants_need_no_model() -> None:
    schema = {"properties": {"v": {"const": 1}, "z": {"type": "null"}, "s": {"enum": ["é"]}}, "type": "object"}
    asked = JsonTemplate(schema, "schema").asked(GenerationRequest((), ("text",)))
    assert asked.edit == Edit(TextPart('{"v": 1, "z": null, "s": [MASK:8]}'), begins=(Begins(('"é"',)),))


def nested(depth: int) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": nested(depth - 1)}} if depth else {"type": "string"}


def rows(depth: int) -> dict[str, Any]:
    return {"type": "array", "items": rows(depth - 1), "maxItems": 60} if depth else {"type": "string"}


BOMB = {
    "$ref": "#/$defs/A",
    "$defs": {"A": {"type": "object", "properties": {str(i): {"$ref": "#/$defs/A"} for i in range(9)}}},
}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "set"}, "'set'"),
        ({"type": "array"}, "items"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 3, "maxItems": 2}, "minItems"),
        ({"type": "array", "items": {"type": "string"}, "minItems": True}, "minItems"),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "items": STRING}, "needs maxItems"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 10**9}, "too many items"),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 0}, "no value"),
        ({"anyOf": [STRING, {"type": "string"}]}, "beside"),
        ({"anyOf": [STRING, STRING]}, "beside"),
        ({"anyOf": [{"type": "null"}], "type": "string"}, "beside anyOf"),
        ({"type": []}, "choose from"),
        ({"type": "string", "pattern": "x"}, "pattern"),
        ({"type": "number", "minimum": 0}, "minimum, which is supported for the type integer alone"),
        ({"type": "integer", "enum": [1, 9], "maximum": 5}, "maximum"),
        ({"type": "integer", "minimum": 0.5}, "integers in minimum"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "no less"),
        ({"type": "string", "maxLength": -1}, "maxLength"),
        ({"anyOf": []}, "anyOf must list"),
        (rows(8), "too many items"),
        ({"$ref": "https://example.com"}, r"\$ref"),
        ({"type": "object"}, "no value"),
        ({"type": "object", "properties": {"[MASK:3]": {"type": "string"}}}, "MASK"),
        ({"enum": []}, "enum"),
        ({"type": "object", "properties": {"a": {"const": [float("nan")]}, "b": STRING}}, "finite"),
        ({"enum": [float("inf")]}, "finite"),
        (nested(20), "levels"),
        (BOMB, "levels"),
    ],
)
def test_schemas_that_cannot_be_filled_in_are_refused(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        JsonTemplate(schema, "schema")
    assert caught.value.code == "schema_unsupported"


@pytest.mark.parametrize(
    "options",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": STRING}}, "stop": "x"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": STRING}}, "logprobs": True},
    ],
)
def test_what_does_not_go_with_json_is_refused(api: OpenAI, options: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(model="fake", messages=[{"role": "user", "content": "x"}], **options)
    assert str(caught.value.param).startswith("response_format")
