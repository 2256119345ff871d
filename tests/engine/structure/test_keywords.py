"""Where unenforceable keywords stand, and schemas that can be said without them."""

import json
from itertools import product
from typing import Any

import jsonschema
import pytest

from servery.engine import constraint
from servery.engine.errors import InvalidRequest
from servery.engine.structure.grammar import check_constraint
from servery.engine.structure.keywords import plain
from tests.engine.structure.test_grammar import accepts

TEXT = {"type": "string"}
AB = {"enum": ["a", "b"]}
INTEGERS = {"type": "object", "additionalProperties": {"type": "integer"}}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (
            {"properties": {"a": {"not": {}}}},
            ("it uses keywords that cannot be enforced: 'not' at '/properties/a'; say what is allowed, with 'enum', 'type' "
            "or 'anyOf'."),
        ),
        (
            {"items": {"if": TEXT, "then": AB}},
            "it uses keywords that cannot be enforced: 'if', 'then' at '/items'; write the cases out with 'anyOf'.",
        ),
        (
            {"$defs": {"tags": {"uniqueItems": True, "contains": AB}}, "$ref": "#/$defs/tags"},
            ("it uses keywords that cannot be enforced: 'contains', 'uniqueItems' at '/$defs/tags'; name the items with "
            "'prefixItems'; leave it out and check the answer for it, or make each item a boolean property."),
        ),
        (
            {"$dynamicAnchor": "x", "unevaluatedItems": False},
            ("it uses keywords that cannot be enforced: '$dynamicAnchor', 'unevaluatedItems' at '/'; use '$ref'; use "
            "'items'."),
        ),
        (
            {"anyOf": [{"oneOf": [TEXT, {"minLength": 1}]}]},
            "the branches of 'oneOf' at '/anyOf/0' do not exclude each other by their types or constants; use 'anyOf'.",
        ),
        (
            {"properties": {"a": {"pattern": "(?=x)"}, "b": {"pattern": "x"}}},
            ("the pattern at '/properties/a' cannot be read: look-around, including look-ahead and look-behind, is not "
            "supported."),
        ),
        (
            {"properties": {"a": {"format": "iri"}}},
            "the format 'iri' at '/properties/a' is not known; use 'pattern', or leave it out.",
        ),
        (
            {"items": {"type": ["string", "int"]}},
            "'type' at '/items' is 'int', which is none of JSON's types.",
        ),
        (
            {"items": {"$ref": "https://example.com/a.json"}},
            "the reference at '/items' leads outside of the schema; put what it refers to under '$defs'.",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_is_told_with_its_place_and_what_to_write(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_constraint(constraint.json_schema(schema))
    assert str(caught.value) == f"constraint cannot be enforced: {told}"


@pytest.mark.parametrize(
    ("schema", "same"),
    [
        ({"type": "array", "items": AB, "uniqueItems": False}, {"type": "array", "items": AB}),
        ({"type": "array", "maxItems": 1, "uniqueItems": True}, {"type": "array", "maxItems": 1}),
        ({"not": False, "if": TEXT}, {}),
        ({"then": TEXT, "else": TEXT}, {}),
        ({"minContains": 2}, {}),
        ({"contains": TEXT, "minContains": 0}, {}),
        ({"propertyNames": TEXT, "unevaluatedProperties": True, "unevaluatedItems": {}}, {}),
        ({"dependentRequired": {}, "dependentSchemas": {}}, {}),
        (
            {**INTEGERS, "propertyNames": AB},
            {
                "type": "object", "properties": {key: {"type": "integer"} for key in "ab"},
                "additionalProperties": False,
            },
        ),
        (
            {**INTEGERS, "propertyNames": {"const": "a", "type": "string"}, "required": ["a"]},
            {
                "type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False,
                "required": ["a"],
            },
        ),
        (
            {**INTEGERS, "propertyNames": {"pattern": "^a"}},
            {"type": "object", "patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": False},
        ),
        ({"type": "string", "maxLength": 2**32}, {"type": "string"}),
        ({"maxItems": 10**20, "minItems": 2}, {"minItems": 2}),
        ({"propertyNames": {"enum": []}}, {"properties": {}, "additionalProperties": False}),
        ({"items": {"uniqueItems": False}, "const": {"uniqueItems": False}}, {"items": {}, "const": {"uniqueItems": False}}),
    ],
)  # fmt: skip
def test_what_says_nothing_is_left_out_and_what_can_be_said_otherwise_is(
    schema: dict[str, Any], same: dict[str, Any]
) -> None:
    """The documents that both allow are the same, by another implementation of JSON Schema."""
    keys: list[dict[str, Any]] = [
        dict(pairs) for pairs in product([("a", 1), ("a", "x"), ("b", 1)], [("b", 2), ("c", 3)])
    ]
    documents = [{}, [], [1, 1], ["a"], ["a", "a"], ["c"], "a", 5, {"a": 1}, {"c": 1}, {"uniqueItems": False}, *keys]
    ours, theirs = jsonschema.Draft202012Validator(same), jsonschema.Draft202012Validator(schema)

    assert plain(schema) == same
    assert [ours.is_valid(each) for each in documents] == [theirs.is_valid(each) for each in documents]


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {}},
        {"uniqueItems": True},
        {"contains": TEXT, "minContains": 0, "maxContains": 1},
        {"propertyNames": {"maxLength": 2}},
        {"propertyNames": AB, "properties": {"a": {}}},
        {"propertyNames": {"enum": ["a", 1]}},
        {"propertyNames": {"enum": ["a"], "pattern": "a"}},
        {"propertyNames": False},
    ],
)
def test_what_says_something_stays_and_is_refused(schema: dict[str, Any]) -> None:
    assert plain(schema) == schema
    with pytest.raises(InvalidRequest, match="keywords that cannot be enforced"):
        check_constraint(constraint.json_schema(schema))


def test_a_mapping_with_named_keys_as_pydantic_writes_it_can_be_enforced() -> None:
    written = {**INTEGERS, "propertyNames": AB}
    wanted = constraint.json_schema(written)
    check_constraint(wanted)

    assert accepts(wanted, json.dumps({"a": 1, "b": 2}))
    assert not accepts(wanted, json.dumps({"c": 1}))


@pytest.mark.parametrize(
    "bounds",
    [
        {"minimum": -(2**63), "maximum": 2**63 - 1},
        {"minimum": -(2**63)},
        {"exclusiveMinimum": -1e300, "exclusiveMaximum": 1e300},
        {"minimum": 0, "maximum": 2**64 - 1},
    ],
)
@pytest.mark.parametrize("kind", ["integer", "number"])
def test_bounds_that_a_type_of_integers_has_can_be_enforced(kind: str, bounds: dict[str, Any]) -> None:
    check_constraint(constraint.json_schema({"type": kind, **bounds}))


@pytest.mark.parametrize("bounds", [{"minimum": 10**25}, {"maximum": -1e20}])
def test_bounds_that_leave_nothing_near_are_told_of_with_their_place(bounds: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", **bounds}}}
    with pytest.raises(
        InvalidRequest, match=r"the bounds at '/properties/n' leave only numbers beyond 9223372036854774784"
    ):
        check_constraint(constraint.json_schema(schema))
