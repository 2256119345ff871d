"""What a JSON schema must satisfy to be enforced, beyond what the grammar's compiler looks at.

The compiler refuses keywords that it does not know. Refused here is what it would take and get wrong or take forever
with, so that every document that it lets a model write is valid.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from servery.engine.constraint import invalid_constraint

MAX_DEPTH = 100  # of nested objects and lists in a schema; the compiler's own limit is 128
MAX_SIZE = 2**31 - 1  # of a text or a list: more than any answer can have
# Whether an intersection of n patterns is empty takes the compiler 2^n: 12 patterns 6 ms, 22 patterns 5 s.
MAX_JOINT_PATTERNS = 12

# The others of JSON Schema can be had as annotations only, which is what the standard makes of all of them by default.
ENFORCED_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)

_ONE = ("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SHORT_ESCAPES = frozenset("\b\t\n\f\r")


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise `InvalidRequest` for a schema that cannot be enforced in full, naming the keyword and where it is."""
    if _depth(schema) > MAX_DEPTH:
        raise invalid_constraint(f"it is nested more than {MAX_DEPTH} levels deep.")
    for path, node in subschemas(schema):
        _check_sizes(path, node)
        _check_min_properties(path, node)
        _check_strings(path, node)
    try:
        joint = _JointPatterns(schema).count(schema)
    except RecursionError:
        raise invalid_constraint("its references lead too deep, each to the next.") from None
    if joint > MAX_JOINT_PATTERNS:
        raise invalid_constraint(
            f"up to {joint} 'pattern's may apply to one string through 'allOf' and '$ref'; at most {MAX_JOINT_PATTERNS} "
            "can be joined."
        )


def without_annotations(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without the formats that cannot be enforced, which the standard takes as annotations."""
    if _depth(schema) > MAX_DEPTH:  # refused by name when it is checked
        return dict(schema)
    return map_schema(schema, _without_annotation)


def map_schema(schema: Mapping[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """A copy of `schema`, which is not too deep, with every schema inside changed, and itself last."""
    copy: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _ONE and isinstance(value, Mapping):
            copy[keyword] = map_schema(value, change)
        elif keyword in _LISTS and isinstance(value, list):
            copy[keyword] = [map_schema(one, change) if isinstance(one, Mapping) else one for one in value]
        elif keyword in _MAPS and isinstance(value, Mapping):
            copy[keyword] = {
                n: map_schema(one, change) if isinstance(one, Mapping) else one for n, one in value.items()
            }
        else:
            copy[keyword] = value
    return change(copy)


def subschemas(schema: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema inside `schema`, itself first, with its JSON pointer; data (const, enum, default) is no schema."""
    if not isinstance(schema, Mapping):
        return
    yield path, schema
    for keyword in _ONE:
        yield from subschemas(schema.get(keyword), f"{path}/{keyword}")
    for keyword in _LISTS:
        for at, one in enumerate(_listed(schema.get(keyword))):
            yield from subschemas(one, f"{path}/{keyword}/{at}")
    for keyword in _MAPS:
        for name, one in _mapped(schema.get(keyword)).items():
            yield from subschemas(one, f"{path}/{keyword}/{name}")


def _without_annotation(node: dict[str, Any]) -> dict[str, Any]:
    format_ = node.get("format")
    if isinstance(format_, str) and format_ not in ENFORCED_FORMATS:
        del node["format"]
    return node


def _check_sizes(path: str, node: Mapping[str, Any]) -> None:
    """What no answer can be as long as would otherwise be refused in words about the pattern that it became."""
    for keyword in ("minLength", "minItems", "minProperties"):
        least = node.get(keyword)
        if isinstance(least, int | float) and least > MAX_SIZE:
            raise invalid_constraint(f"'{keyword}' is {least} at '{path or '/'}'; at most {MAX_SIZE} can be enforced.")
    step = node.get("multipleOf")
    if isinstance(step, int | float) and step <= 0:
        raise invalid_constraint(f"'multipleOf' is {step} at '{path or '/'}'; it must be greater than 0.")


def _check_min_properties(path: str, node: Mapping[str, Any]) -> None:
    """Free keys may occur twice in a document, and then count once: at most one of them can be counted on."""
    least, required = node.get("minProperties"), node.get("required")
    named = len({str(name) for name in _listed(required)})
    if isinstance(least, int | float) and least > named + 1:
        raise invalid_constraint(
            f"'minProperties' is {least} at '{path or '/'}' where 'required' names {named} properties; it can be enforced "
            f"up to {named + 1}: name the properties."
        )


def _check_strings(path: str, node: Mapping[str, Any]) -> None:
    """Control characters have no short escape in JSON, and long ones are not written: keys would have two spellings."""
    named = [*_mapped(node.get("properties")), *_listed(node.get("required"))]
    data = [node["const"]] if "const" in node else []
    for text in _strings([named, data, node.get("enum", [])]):
        for character in text:
            if character < " " and character not in _SHORT_ESCAPES:
                raise invalid_constraint(
                    f"a name or value at '{path or '/'}' has the control character U+{ord(character):04X}, which "
                    "constrained answers cannot have."
                )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings(list(value))
        yield from _strings(list(value.values()))
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


class _JointPatterns:
    """A bound on how many patterns may have to hold for one string: what allOf and $ref add to a schema's own."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._known: dict[int, int] = {}  # by identity, which the root keeps alive

    def count(self, schema: Any) -> int:
        """The bound for `schema`; a schema that refers to itself counts once."""
        if not isinstance(schema, Mapping):
            return 0
        key = id(schema)
        if key in self._known:
            return self._known[key]
        self._known[key] = 0  # while it is being counted
        own = int("pattern" in schema or "format" in schema)
        joined = sum(self.count(one) for one in _listed(schema.get("allOf"))) + self._referenced(schema)
        apart = max((self.count(one) for one in self._alternatives(schema)), default=0)
        self._known[key] = own + joined + apart
        return self._known[key]

    def _referenced(self, schema: Mapping[str, Any]) -> int:
        target: Any = self._root
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            return 0
        for part in reference[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, Mapping) else None
        return self.count(target)

    @staticmethod
    def _alternatives(schema: Mapping[str, Any]) -> Iterator[Any]:
        for keyword in _ONE:
            yield schema.get(keyword)
        for keyword in ("anyOf", "oneOf", "prefixItems"):
            yield from _listed(schema.get(keyword))
        for keyword in ("properties", "patternProperties"):
            yield from _mapped(schema.get(keyword)).values()


def _depth(value: Any) -> int:
    """How deep objects and lists are nested, counted up to one more than is allowed."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        inner = [list(one.values()) if isinstance(one, Mapping) else one for one in level]
        level = [child for one in inner if isinstance(one, list) for child in one if isinstance(child, Mapping | list)]
        depth += 1
    return depth


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapped(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
