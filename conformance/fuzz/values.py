"""Values that JSON can have and nobody expects."""

from typing import Any

from hypothesis import strategies as st

_NUMBERS = (
    0, -1, 1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, 0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, 1.0000000001, 100.5,
)  # fmt: skip
_TEXTS = (
    "", " ", "\0", "\ufeff", "\u202e", "\U0010ffff", "e\u0301" * 50, "\U0001f468\u200d\U0001f469\u200d\U0001f467", "{{ 7*7 }}",
    "{% raw %}", "<|im_start|>", "<|end|>", "<tool_call>", "</think>", "../../etc/passwd", "amuse:", "*", "none", "null", "NaN", "1",
    "a" * 3000, "\n" * 500, "(" * 200, "(a+)+$", "[", '{"type": "object"}', 'start: "a"', "\\", '"', "data: [DONE]\n\n",
)  # fmt: skip
# Half of a surrogate pair: JSON can write it, and it is no character.
_HALVES = ("\ud800", "x\udfff", "\ud83d")

texts = st.one_of(st.sampled_from(_TEXTS), st.text(max_size=30), st.sampled_from(_HALVES))
numbers = st.one_of(st.sampled_from(_NUMBERS), st.integers(-5, 5), st.integers(), st.floats(allow_nan=False))
scalars: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), numbers, texts)
anything: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)

_SCHEMA_KEYS = (
    "type", "properties", "required", "items", "enum", "const", "anyOf", "oneOf", "allOf", "not", "$ref", "$defs", "pattern",
    "format", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "additionalProperties", "uniqueItems",
)  # fmt: skip
_TYPES = ("string", "integer", "number", "boolean", "null", "object", "array")
schemas: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.builds(lambda kind: {"type": kind}, st.sampled_from(_TYPES)),
        st.dictionaries(st.sampled_from(_SCHEMA_KEYS), scalars, max_size=3),
    ),
    lambda inner: st.one_of(
        st.builds(lambda a, b: {"type": "object", "properties": {"a": a, "b": b}, "required": ["a"]}, inner, inner),
        st.builds(lambda a: {"type": "array", "items": a, "maxItems": 3}, inner),
        st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner),
        st.builds(lambda a: {"$defs": {"d": a}, "$ref": "#/$defs/d"}, inner),
        st.dictionaries(st.sampled_from(_SCHEMA_KEYS), inner, max_size=3),
    ),
    max_leaves=6,
)
