"""The keyword arguments of a call in Python's notation, as a grammar: `city="Paris", days=3, is_short=True`.

Values are written as JSON, which the parser of this notation reads as well, but for the plain booleans: those are
Python's, as models were trained to write them.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from servery.engine.constraint import invalid_constraint
from servery.engine.parsing.python_call import NAME
from servery.engine.structure.grammar import inline_json
from servery.engine.structure.lark import literal

_BOOLEAN = '("True" | "False")'
# What may stand beside the properties: it is enforced, or says nothing.
_KNOWN = frozenset(
    ("type", "properties", "required", "additionalProperties", "$defs", "definitions", "$schema", "$id", "$comment",
     "title", "description", "default", "examples", "deprecated")
)  # fmt: skip
_ROOT = "#/$defs/parameters"


def check_name(name: str, kind: str) -> None:
    """Raise `InvalidRequest` for a function's or an argument's name that cannot be told from what surrounds it."""
    if not re.fullmatch(NAME, name):
        raise invalid_constraint(
            f"the {kind} {json.dumps(name)} cannot be called as this model writes calls: its name must have no space and none "
            "of ( ) [ ] { } , = ' \"."
        )


def python_arguments(rule: str, schema: Mapping[str, Any]) -> list[str]:
    """The rules for the arguments of an object's schema, in its order; those not required may be left out.

    The first is `rule`. Only the properties that are named may be given. Raises `InvalidRequest` for keywords beside them
    that would restrict the object as a whole.
    """
    for keyword in schema:
        if keyword not in _KNOWN:
            raise invalid_constraint(
                f"'{keyword}' beside 'properties' cannot be enforced where calls are written as in Python."
            )
    required, listed = schema.get("required", []), schema.get("properties", {})
    if (
        not isinstance(listed, Mapping)
        or not isinstance(required, list)
        or not all(isinstance(n, str) for n in required)
    ):
        raise invalid_constraint("its 'properties' must be an object and 'required' a list of names.")
    properties: dict[str, Any] = {**listed, **{name: True for name in required if name not in listed}}
    rules = [f"{rule}: {rule}_first_0"]
    for at, (name, one) in enumerate(properties.items()):
        check_name(name, "argument")
        if one is not True and not isinstance(one, Mapping):
            raise invalid_constraint(f"no value can be given for the argument {json.dumps(name)}; leave it out.")
        given = f"{literal(f'{name}=', {})} {rule}_value_{at} {rule}_rest_{at + 1}"
        # Nothing has been written yet, or something has and a comma must come first.
        left_out = "" if name in required else f" | {rule}_{{}}_{at + 1}"
        rules += [
            f"{rule}_first_{at}: {given}{left_out.format('first')}",
            f'{rule}_rest_{at}: ", " {given}{left_out.format("rest")}',
            f"{rule}_value_{at}: {_value({} if one is True else one, schema)}",
        ]
    return [*rules, f'{rule}_first_{len(properties)}: ""', f'{rule}_rest_{len(properties)}: ""']


def _value(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    if schema.get("type") == "boolean" and not {"const", "enum"} & schema.keys():
        return _BOOLEAN
    if '"$ref"' not in json.dumps(schema):
        return inline_json(json.dumps(schema))
    moved: dict[str, Any] = _moved(schema)
    return inline_json(json.dumps({**moved, "$defs": {**moved.get("$defs", {}), "parameters": _moved(root)}}))


def _moved(value: Any) -> Any:
    """A copy of a schema in which references to its root lead to where the root is put: among the definitions."""
    if isinstance(value, Mapping):
        return {
            key: f"{_ROOT}{one[1:]}" if key == "$ref" and isinstance(one, str) and one.startswith("#") else _moved(one)
            for key, one in value.items()
        }
    return [_moved(one) for one in value] if isinstance(value, list) else value
