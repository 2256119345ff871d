"""Random JSON schemas whose documents are short, so that a model of random weights comes to their end."""

from typing import Any

from hypothesis import strategies as st

_NAMES = st.sampled_from(["a", "b", "id", "größe", 'q"uote', "a b", "$x", "slash/"])
_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=3)
_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-99, 99), _TEXTS)


def _number(low: int, more: int, kind: str) -> dict[str, Any]:
    return {"type": kind, "minimum": low, "maximum": low + more}


_STRINGS = st.one_of(
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
        st.integers(0, 3),
        st.integers(0, 4),
    ),
    st.sampled_from([r"^[ab]{2,4}$", r"^\d{3}-x$", r"^(foo|bar)?$", r"^[^x]{1,3}$"]).map(
        lambda pattern: {"type": "string", "pattern": pattern}
    ),
    st.sampled_from(["date", "uuid", "ipv4", "time"]).map(lambda name: {"type": "string", "format": name}),
)
_LEAVES = st.one_of(
    _STRINGS,
    st.builds(_number, st.integers(-50, 50), st.integers(0, 200), st.just("integer")),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}]),
    st.lists(_SCALARS, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    _SCALARS.map(lambda value: {"const": value}),
)


def _arrays(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda one, first, low, more: {
            "type": "array", "items": one, "prefixItems": first, "minItems": low, "maxItems": low + more
        },
        items, st.lists(items, max_size=2), st.integers(0, 2), st.integers(0, 2),
    )  # fmt: skip


@st.composite
def _objects(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(_NAMES, values, max_size=3))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    schema = {"type": "object", "properties": properties, "required": required}
    if draw(st.booleans()):
        return {**schema, "additionalProperties": False}
    # Free keys: at most one more, or an object might never end.
    schema["required"] = sorted(properties)
    return {**schema, "additionalProperties": draw(_LEAVES), "maxProperties": len(properties) + 1}


def _joined(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(parts, min_size=1, max_size=3).map(lambda several: {"anyOf": several})


SCHEMAS = st.recursive(_LEAVES, lambda inner: st.one_of(_objects(inner), _arrays(inner), _joined(inner)), max_leaves=5)
