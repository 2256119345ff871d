"""The keyword arguments of a call in Python's notation, as a grammar: `city="Paris", days=3, is_short=True`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from servery.engine.constraint import invalid_constraint
from servery.engine.structure.grammar import inline_json

# What is written alike in JSON and in Python.
_ALIKE = frozenset(("string", "integer", "number"))
_CONSTANTS = {True: '"True"', False: '"False"', None: '"None"'}


def python_arguments(schema: Mapping[str, Any]) -> str:
    """An expression for the arguments that an object's schema names, in its order; those not required may be left out.

    Raises `InvalidRequest` for an argument whose values are written differently in Python, deep inside.
    """
    properties: Mapping[str, Any] = schema.get("properties", {})
    required = set(schema.get("required", ()))
    arguments = [
        (f"{json.dumps(f'{name}=', ensure_ascii=False)} {_value(name, one, schema)}", name in required)
        for name, one in properties.items()
    ]
    return _joined(arguments)


def _joined(arguments: Sequence[tuple[str, bool]]) -> str:
    """Those that are there, in order, with a comma between two."""
    if not arguments:
        return '""'
    choices = []
    # The first one that is there is one of those up to the first that must be; the others follow with a comma each.
    for at, (first, is_required) in enumerate(arguments):
        rest = " ".join(f'(", " {one}){"" if must else "?"}' for one, must in arguments[at + 1 :])
        choices.append(f"({first} {rest})")
        if is_required:
            return f"({' | '.join(choices)})"
    return f"({' | '.join(choices)})?"


def _value(name: str, schema: Any, root: Mapping[str, Any]) -> str:
    if isinstance(schema, Mapping):
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return f"({' | '.join(_constant(name, value) for value in values)})"
        if alternatives := schema.get("anyOf"):
            return f"({' | '.join(_value(name, one, root) for one in alternatives)})"
        kinds = schema["type"] if isinstance(schema.get("type"), list) else [schema.get("type")]
        return f"({' | '.join(_of_kind(name, kind, schema, root) for kind in kinds)})"
    raise _unwritable(name)


def _of_kind(name: str, kind: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    if kind == "boolean":
        return '("True" | "False")'
    if kind == "null":
        return '"None"'
    if _is_alike(kind, schema):
        definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
        return inline_json(json.dumps({**definitions, **schema, "type": kind}))
    raise _unwritable(name)


def _is_alike(kind: Any, schema: Any) -> bool:
    if kind in _ALIKE:
        return True
    items = schema.get("items")
    is_list = kind == "array" and isinstance(items, Mapping) and "prefixItems" not in schema
    return is_list and _is_alike(items.get("type"), items)


def _constant(name: str, value: Any) -> str:
    if value is None or isinstance(value, bool):
        return _CONSTANTS[value]
    if isinstance(value, str | int | float):
        return json.dumps(json.dumps(value, ensure_ascii=False), ensure_ascii=False)
    raise _unwritable(name)


def _unwritable(name: str) -> Exception:
    return invalid_constraint(
        f"the argument '{name}' cannot be enforced in Python's notation; strings, numbers, booleans, null, enumerations "
        "and lists of strings and numbers can."
    )
