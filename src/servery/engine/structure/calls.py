"""Constraints that make an answer one or more tool calls, written as the model writes calls.

The calls' notation is that of `parsing.format`; the arguments are what a function's JSON schema allows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servery.engine.constraint import Constraint, Reasoning, grammar, invalid_constraint
from servery.engine.parsing.format import Body, ToolFormat
from servery.engine.structure.grammar import inline_json
from servery.engine.structure.lark import literal, until
from servery.engine.structure.python_arguments import python_arguments
from servery.engine.structure.schema import without_annotations

_SPACE = r"/[ \n]{0,2}/"
# What an object's schema may have and still say nothing of properties that it does not list.
_PLAIN = frozenset(("type", "properties", "required", "title", "description", "$defs", "definitions", "$schema", "$id"))
_COMMA = '", "'


@dataclass(frozen=True, slots=True)
class Function:
    """A function that may be called: its name and the JSON schema of its arguments, None for any object."""

    name: str
    parameters: Mapping[str, Any] | None = None
    strict: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """The arguments' schema, which is always one of objects.

        Where it lists the arguments and does not say whether there may be others, there are none: a function fails over
        arguments that it does not have, and whatever is written still follows the schema as it was given.
        """
        given = dict(self.parameters or {})
        schema = given if self.strict else without_annotations(given)
        return {"type": "object", **_closed(schema)}


def calls_constraint(
    functions: Sequence[Function],
    notation: ToolFormat,
    special: Mapping[str, int],
    *,
    most: int | None = None,
    is_forced: bool = True,
    reasoning: Reasoning | None = None,
) -> Constraint:
    """The answer is at least one call of `functions`, at most `most`, and nothing else.

    Not `is_forced`: it is any text, and calls if the model begins one; only for notations with a marker at the beginning.
    `special` are the ids of the model's special tokens by their text: a marker that is one of them is that token.
    `reasoning` is that of `Constraint`. Raises `InvalidRequest` for arguments that cannot be enforced.
    """
    rules = [f"call_{at}: {_call(function, notation, special)}" for at, function in enumerate(functions)]
    one = " | ".join(f"call_{at}" for at in range(len(functions)))
    calls = _calls(notation, special, most)
    start = f"start: {literal(notation.begin, special)} {calls}" if is_forced else _free(notation, special, calls)
    return grammar("\n".join([start, f"one: {one}", *rules]), reasoning=reasoning)


def _free(notation: ToolFormat, special: Mapping[str, int], calls: str) -> str:
    """Text, in which the marker of a call can only lead to calls."""
    if not notation.begin:
        raise invalid_constraint(
            f"tools are strict, but calls in the notation '{notation.name}' begin like any text; force a call, or leave "
            "'strict' out."
        )
    if notation.begin in special:
        return f"start: TEXT | TEXT {literal(notation.begin, special)} {calls}\nTEXT: /(.|\\n)*/"
    return f"start: TEXT | head {calls}\nhead[lazy]: {until(notation.begin)}\nTEXT: /(.|\\n)*/"


def _calls(notation: ToolFormat, special: Mapping[str, int], most: int | None) -> str:
    """What follows the marker that leads the first call, if there is one."""
    begin, end = literal(notation.begin, special), literal(notation.end, special)
    match notation.body:
        case Body.PYTHON:
            return f'"[" {_several("one", _COMMA, "one", most)} "]"'
        case Body.OBJECTS if not _is_named(notation, special):
            return f'"[" {_several("one", _COMMA, "one", most)} "]"'
        case Body.OBJECTS:
            return _several("one", begin, "one", most)
        case _ if notation.begin:
            inside = f"{_SPACE} one {_SPACE} {end}"
            return _several(inside, rf"/\n?/ {begin}", inside, most)
        case _:
            return _several("one", f"{literal(notation.between, special)} {_SPACE}", "one", most)


def _several(first: str, between: str, next_: str, most: int | None) -> str:
    """At least one, at most `most`."""
    if most == 1:
        return first
    return f"{first} ({between} {next_})" + ("*" if most is None else f"{{0,{most - 1}}}")


def _call(function: Function, notation: ToolFormat, special: Mapping[str, int]) -> str:
    name = json.dumps(function.name, ensure_ascii=False)
    if notation.body is Body.PYTHON:
        return f'{name} "(" {python_arguments(function.schema)} ")"'
    if notation.body is Body.OBJECTS and _is_named(notation, special):
        return f"{name} {literal(notation.separator, special)} {inline_json(json.dumps(function.schema))}"
    key = "parameters" if notation.lead else "arguments"  # as each notation's models were trained to write
    schema = {
        "type": "object",
        "properties": {"name": {"const": function.name}, key: _detached(function.schema)},
        "required": ["name", key],
        "additionalProperties": False,
    }
    return inline_json(json.dumps(_rooted(schema, function.schema)))


def _is_named(notation: ToolFormat, special: Mapping[str, int]) -> bool:
    """Whether calls are written NAME, separator, arguments: only models whose vocabulary has the separator do so."""
    return bool(notation.separator) and notation.separator in special


def _closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """`schema` without further properties than those it lists, unless it says something of these."""
    listed, required = schema.get("properties"), schema.get("required", [])
    if not (schema.keys() <= _PLAIN and isinstance(listed, Mapping) and isinstance(required, list)):
        return schema
    are_listed = all(isinstance(name, str) and name in listed for name in required)
    return {**schema, "additionalProperties": False} if are_listed else schema


def _detached(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("$defs", "definitions", "$schema", "$id")}


def _rooted(outer: dict[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """`outer` with the definitions that `inner` refers to by their place at the root."""
    return {**outer, **{key: inner[key] for key in ("$defs", "definitions") if key in inner}}
