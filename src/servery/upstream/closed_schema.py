"""A JSON schema as Anthropic's and Bedrock's structured outputs take it: closed objects, and few other keywords.

What they cannot enforce ("minimum", "pattern") is told to the model in the description instead, as Anthropic's own client
libraries do: https://platform.claude.com/docs/en/build-with-claude/structured-outputs
"""

from collections.abc import Mapping
from typing import Any

from servery.upstream.refusal import cannot

_FORMATS = frozenset("date-time time date duration email hostname uri ipv4 ipv6 uuid".split())
_WORDS = ("description", "title")
_Schema = Mapping[str, Any]


def closed_schema(schema: _Schema, path: str) -> dict[str, Any]:
    """The schema in their subset; raises `UpstreamFailure` for a part that allows anything. `path` is the client's name."""
    rest = dict(schema)
    closed: dict[str, Any] = {}
    if (definitions := rest.pop("$defs", None)) is not None:
        closed["$defs"] = {name: closed_schema(each, path) for name, each in definitions.items()}
    if "$ref" in rest:
        return closed | {"$ref": rest["$ref"]}
    closed |= _kind(rest, path)
    closed |= {name: rest.pop(name) for name in _WORDS if rest.get(name) is not None}
    closed |= _inside(closed.get("type"), rest, path)
    if rest:
        told = "{" + ", ".join(f"{name}: {value}" for name, value in rest.items()) + "}"
        closed["description"] = "\n\n".join(text for text in (closed.get("description"), told) if text)
    return closed


def _kind(rest: dict[str, Any], path: str) -> dict[str, Any]:
    """What is said of the value as a whole, taken out of `rest`: literals, alternatives, or a type."""
    literals: dict[str, Any] = {}
    if (enum := rest.get("enum")) and isinstance(enum, list) and all(map(_is_literal, enum)):
        literals["enum"] = rest.pop("enum")
    if "const" in rest and _is_literal(rest["const"]):
        literals["const"] = rest.pop("const")
    type_ = rest.pop("type", None)
    several = {name: rest.pop(name, None) for name in ("anyOf", "oneOf", "allOf")}
    for name, each in several.items():
        if isinstance(each, list):
            kept = "allOf" if name == "allOf" else "anyOf"
            return {**literals, kept: [closed_schema(variant, path) for variant in each]}
    if literals:
        return literals
    if isinstance(type_, list):
        inside = {name: rest.pop(name) for name in [*rest] if name not in _WORDS}
        return {"anyOf": [closed_schema({"type": each, **_of(each, inside)}, path) for each in type_]}
    if not isinstance(type_, str):
        raise cannot(path, "a part of it has no 'type', 'enum', 'const' or alternatives, so it allows anything.")
    return {"type": type_}


def _of(type_: str, inside: _Schema) -> _Schema:
    return {} if type_ == "null" else inside


def _inside(type_: str | None, rest: dict[str, Any], path: str) -> dict[str, Any]:
    """What is said of the parts of a value of this type, taken out of `rest`."""
    if type_ == "object":
        rest.pop("additionalProperties", None)
        properties = {name: closed_schema(each, path) for name, each in rest.pop("properties", {}).items()}
        required = rest.pop("required", None)
        closed = {"properties": properties, "additionalProperties": False}
        return closed if required is None else closed | {"required": required}
    if type_ == "array":
        kept = {"items": closed_schema(rest.pop("items"), path)} if rest.get("items") is not None else {}
        return kept | ({"minItems": rest.pop("minItems")} if rest.get("minItems") in (0, 1) else {})
    if type_ == "string" and rest.get("format") in _FORMATS:
        return {"format": rest.pop("format")}
    return {}


def _is_literal(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
