"""Anthropic's official client closes the schemas of Python types; ours are closed as it does."""

from typing import Any

import pytest
from anthropic import transform_schema
from hypothesis import given
from hypothesis import strategies as st

from servery.upstream.closed_schema import closed_schema
from servery.upstream.failure import UpstreamFailure

_LEAVES = st.one_of(
    st.builds(lambda most: {"type": "integer", "maximum": most}, st.integers()),
    st.builds(lambda form: {"type": "string", "format": form}, st.sampled_from(["date", "uuid", "phone"])),
    st.builds(lambda values: {"enum": values}, st.lists(st.text(max_size=2), min_size=1, max_size=2)),
    st.just({"const": 3, "title": "three"}),
    st.just({"$ref": "#/$defs/x"}),
    st.just({"type": "boolean", "description": "whether"}),
)
_SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.builds(
            lambda fields, extra: {"type": "object", "properties": fields, "required": sorted(fields), **extra},
            st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            st.sampled_from([{}, {"additionalProperties": True}, {"minProperties": 1}, {"$defs": {"x": {"type": "null"}}}]),
        ),
        st.builds(lambda items, least: {"type": "array", "items": items, "minItems": least}, inner, st.integers(0, 3)),
        st.builds(lambda each, word: {word: each}, st.lists(inner, min_size=1, max_size=2), st.sampled_from(["anyOf", "oneOf", "allOf"])),
    ),
    max_leaves=6,
)  # fmt: skip


@given(_SCHEMAS)
def test_schemas_are_closed_as_anthropics_own_client_does_it(schema: dict[str, Any]) -> None:
    assert closed_schema(schema, "schema") == transform_schema(schema)


def test_a_part_of_a_schema_that_says_nothing_is_refused() -> None:
    with pytest.raises(UpstreamFailure, match="a part of it has no 'type'"):
        closed_schema({"type": "array", "items": {}}, "schema")


def test_several_types_are_alternatives() -> None:
    schema = {"type": ["string", "null"], "format": "date", "pattern": "^2", "title": "When"}
    date = {"type": "string", "format": "date", "description": "{pattern: ^2}"}

    assert closed_schema(schema, "schema") == {"anyOf": [date, {"type": "null"}], "title": "When"}
