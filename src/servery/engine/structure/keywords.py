"""Keywords of JSON schemas that cannot be enforced: where they stand, and what can be written instead.

What says nothing where it stands, or the same as keywords that can be enforced, is written so beforehand.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from servery.engine.structure.calendar import with_calendar
from servery.engine.structure.schema import MAX_SIZE, map_schema, subschemas

_CASES = "write the cases out with 'anyOf'"
# What is told of a keyword that is not here.
_NOTHING_INSTEAD = "leave it out, and check the answer for it"
_INSTEAD: Mapping[str, str] = {
    "not": "say what is allowed, with 'enum', 'type' or 'anyOf'",
    **dict.fromkeys(("if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"), _CASES),
    **dict.fromkeys(("contains", "minContains", "maxContains"), "name the items with 'prefixItems'"),
    "uniqueItems": "leave it out and check the answer for it, or make each item a boolean property",
    "propertyNames": "use 'patternProperties' with 'additionalProperties': false",
    "unevaluatedProperties": "use 'additionalProperties'",
    "unevaluatedItems": "use 'items'",
    **dict.fromkeys(("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"), "use '$ref'"),
}
_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
# The compiler counts in float64, and to 2^63.
_FARTHEST = 2**63 - 1024
_KEYS = re.compile(r"Unimplemented keys: \[(.*)\]")


def complaint(schema: Any, message: str) -> str | None:
    """What the compiler says of a schema, with the place and what to write instead; None if there is nothing to add."""
    first, _, rest = message.partition("\n")
    if match := _KEYS.search(message):
        return _of_keywords(schema, re.findall(r'"([^"]*)"', match[1]))
    if first.startswith("oneOf constraints"):
        where = _place(schema, lambda node: "oneOf" in node)
        return f"the branches of 'oneOf'{where} do not exclude each other by their types or constants; use 'anyOf'."
    if first.startswith("Failed to generate regex for"):
        where = _place(schema, lambda node: any(abs(node.get(name, 0)) >= _FARTHEST for name in _BOUNDS))
        return f"the bounds{where} leave only numbers beyond {_FARTHEST} or -{_FARTHEST}, which cannot be enforced."
    if first.startswith("Resource '"):
        where = _place(schema, lambda node: not str(node.get("$ref", "#")).startswith("#"))
        return f"the reference{where} leads outside of the schema; put what it refers to under '$defs'."
    kind, _, name = first.partition(": ")
    if kind == "Unknown format":
        where = _place(schema, lambda node: node.get("format") == name)
        return f"the format '{name}'{where} is not known; use 'pattern', or leave it out."
    if kind == "Invalid type":
        where = _place(schema, lambda node: name in (node.get("type"), *_listed(node.get("type"))))
        return f"'type'{where} is '{name}', which is none of JSON's types."
    if first.startswith("regex parse error") and (cause := re.search(r"^error: (.*)$", rest, re.MULTILINE)):
        where = _place(schema, lambda node: any(text in rest for text in _patterns(node)))
        return f"the pattern{where} cannot be read: {cause[1]}."
    return None


def plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same schema without keywords that change nothing, with names of properties spelled out, and real dates."""
    return map_schema(schema, _plain_node)


def _of_keywords(schema: Any, keywords: Sequence[str]) -> str:
    where = _place(schema, lambda node: all(keyword in node for keyword in keywords))
    instead = list(dict.fromkeys(_INSTEAD.get(keyword, _NOTHING_INSTEAD) for keyword in keywords))
    return f"it uses keywords that cannot be enforced: {', '.join(map(repr, keywords))}{where}; {'; '.join(instead)}."


def _place(schema: Any, is_it: Callable[[Mapping[str, Any]], bool]) -> str:
    """Where the first schema is that `is_it` says yes of, as a phrase with a space before; empty if it is nowhere."""
    return next((f" at '{path or '/'}'" for path, node in subschemas(schema) if is_it(node)), "")


def _patterns(node: Mapping[str, Any]) -> list[str]:
    named, own = node.get("patternProperties"), node.get("pattern")
    return [*(named if isinstance(named, Mapping) else ()), *([own] if isinstance(own, str) else ())]


def _plain_node(node: dict[str, Any]) -> dict[str, Any]:
    kept = {
        keyword: _within_reach(keyword, value)
        for keyword, value in node.items()
        if not _says_nothing(keyword, value, node)
    }
    return with_calendar(_named(kept) if "propertyNames" in kept else kept)


def _within_reach(keyword: str, value: Any) -> Any:
    """A bound on numbers that is farther out than the compiler can count, as the last that it can: nearly all are left."""
    if not isinstance(value, int | float):
        return value
    if keyword in ("minimum", "exclusiveMinimum"):
        return max(value, -_FARTHEST)
    return min(value, _FARTHEST) if keyword in ("maximum", "exclusiveMaximum") else value


def _says_nothing(keyword: str, value: Any, node: Mapping[str, Any]) -> bool:
    """Whether a keyword allows everything where it stands (JSON Schema 2020-12, sections 10.2.2 and 6.4, 6.5)."""
    match keyword:
        case "maxLength" | "maxItems" | "maxProperties":
            return isinstance(value, int | float) and value > MAX_SIZE
        case "uniqueItems":
            return value is False or node.get("maxItems") in (0, 1)
        case "not":
            return value is False
        case "if":
            return "then" not in node and "else" not in node
        case "then" | "else":
            return "if" not in node
        case "contains" | "minContains" | "maxContains":
            return "contains" not in node or ("maxContains" not in node and node.get("minContains") == 0)
        case "propertyNames":
            return value in (True, {}, {"type": "string"})
        case "dependentRequired" | "dependentSchemas":
            return bool(value == {})
        case "unevaluatedProperties" | "unevaluatedItems":
            return value in (True, {})
        case _:
            return False


def _named(node: dict[str, Any]) -> dict[str, Any]:
    """An object whose keys are of a list or match a pattern, as typed mappings are written, said by its properties."""
    names = node["propertyNames"]
    if not isinstance(names, Mapping) or {"properties", "patternProperties"} & node.keys():
        return node
    values = node.get("additionalProperties", True)
    rest = {key: value for key, value in node.items() if key not in ("propertyNames", "additionalProperties")}
    asked = {key: value for key, value in names.items() if key not in ("type", "title", "description")}
    if names.get("type", "string") != "string":
        return node
    listed = [asked["const"]] if asked.keys() == {"const"} else asked.get("enum")
    if asked.keys() <= {"const", "enum"} and isinstance(listed, list) and all(isinstance(n, str) for n in listed):
        return {**rest, "properties": dict.fromkeys(listed, values), "additionalProperties": False}
    if asked.keys() == {"pattern"} and isinstance(asked["pattern"], str):
        return {**rest, "patternProperties": {asked["pattern"]: values}, "additionalProperties": False}
    return node


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
