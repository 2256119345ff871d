"""What a JSON schema must satisfy beyond what the compiler looks at."""

from typing import Any

import pytest

from servery.engine.errors import InvalidRequest
from servery.engine.structure.schema import check_schema, subschemas, without_annotations


def test_data_is_no_schema() -> None:
    schema = {"enum": [{"minProperties": 9}], "default": {"minProperties": 9}, "properties": {"minProperties": {}}}
    check_schema(schema)
    assert [path for path, _ in subschemas(schema)] == ["", "/properties/minProperties"]


def test_one_free_property_can_be_counted_on() -> None:
    check_schema({"minProperties": 1})
    check_schema({"minProperties": 3, "required": ["a", "b"]})
    with pytest.raises(InvalidRequest, match="'minProperties' is 4 at '/items'"):
        check_schema({"items": {"minProperties": 4, "required": ["a", "b"]}})


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"minLength": 10**12}, "'minLength' is 1000000000000 at '/'; at most 2147483647 can be enforced."),
        ({"items": {"minItems": 1e20}}, "'minItems' is 1e+20 at '/items'; at most 2147483647 can be enforced."),
        ({"items": {"multipleOf": -2}}, "'multipleOf' is -2 at '/items'; it must be greater than 0."),
        ({"multipleOf": 0}, "'multipleOf' is 0 at '/'; it must be greater than 0."),
    ],
)
def test_sizes_that_nothing_has_are_refused_by_name(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_schema(schema)
    assert told in str(caught.value)


def test_sizes_up_to_the_limit_are_taken() -> None:
    check_schema({"minLength": 2**31 - 1})


def test_patterns_are_counted_through_references_and_cycles() -> None:
    node = {"pattern": "x", "$ref": "#/$defs/a"}
    check_schema({"$defs": {"a": node}, **node})
    chain = {f"a{i}": {"pattern": f"x{i}", "$ref": f"#/$defs/a{i + 1}"} for i in range(20)}
    with pytest.raises(InvalidRequest, match="up to 20 'pattern's"):
        check_schema({"$defs": {**chain, "a20": {}}, "$ref": "#/$defs/a0"})


def test_a_long_chain_of_references_is_refused_rather_than_followed_too_deep() -> None:
    chain = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(3000)}
    with pytest.raises(InvalidRequest, match="references"):
        check_schema({"$defs": {**chain, "a3000": {}}, "$ref": "#/$defs/a0"})


def test_formats_that_cannot_be_enforced_are_annotations() -> None:
    schema = {
        "properties": {"a": {"type": "string", "format": "int32"}, "format": {"format": "uuid"}},
        "anyOf": [{"format": "regex"}, True],
        "const": {"format": "int32"},
    }
    assert without_annotations(schema) == {
        "properties": {"a": {"type": "string"}, "format": {"format": "uuid"}},
        "anyOf": [{}, True],
        "const": {"format": "int32"},
    }
