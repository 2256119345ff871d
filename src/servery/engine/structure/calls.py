"""Constraints that make an answer one or more tool calls, written as the model writes calls.

The calls' notation is that of `parsing.format`; the arguments are what a function's JSON schema allows. Calls come out
as their notation's models were trained to write them, so that most of a call besides its arguments is forced.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servery.engine.constraint import Constraint, ConstraintKind, Reasoning, invalid_constraint
from servery.engine.parsing.format import Body, ToolFormat
from servery.engine.structure.grammar import inline_json
from servery.engine.structure.lark import escaped, literal, text_without, until
from servery.engine.structure.python_arguments import check_name, python_arguments
from servery.engine.structure.schema import without_annotations

_SPACE = r"/[ \n]{0,2}/"
_COMMA = '", "'
# What an object's schema may have and still say nothing of properties that it does not list.
_PLAIN = frozenset(("type", "properties", "required", "title", "description", "$defs", "definitions", "$schema", "$id"))
# Without parameters, as OpenAI has it, a function takes none.
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Function:
    """A function that may be called: its name and the JSON schema of its arguments, None for no arguments.

    `is_kept_to`: calls have arguments that the schema allows; otherwise any object. `strict` refuses formats that cannot
    be enforced, which otherwise are annotations.
    """

    name: str
    parameters: Mapping[str, Any] | None = None
    strict: bool = False
    is_kept_to: bool = True

    @property
    def schema(self) -> dict[str, Any]:
        """The arguments' schema, which is always one of objects; raises `InvalidRequest` if it can be none.

        Where it lists the arguments and does not say whether there may be others, there are none: a function fails over
        arguments that it does not have, and whatever is written still follows the schema as it was given.
        """
        if not self.is_kept_to:
            return {"type": "object"}
        given = dict(_NO_PARAMETERS if self.parameters is None else self.parameters)
        kind = given.get("type", "object")
        if kind != "object" and not (isinstance(kind, list) and "object" in kind):
            raise invalid_constraint(f"its 'type' is {json.dumps(kind)}; arguments are an object.")
        schema = given if self.strict else without_annotations(given)
        return {**_closed(schema), "type": "object"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Otherwise:
    """What the answer may be instead of calls: a document of a JSON schema, or any text if there is none.

    `reserved` are texts that it must not begin with, because they would be taken for something else.
    """

    document: Mapping[str, Any] | None = None
    reserved: tuple[str, ...] = ()


def calls_constraint(
    functions: Sequence[Function],
    notation: ToolFormat,
    special: Mapping[str, int],
    *,
    most: int | None = None,
    otherwise: Otherwise | None = None,
    reasoning: Reasoning | None = None,
) -> Constraint:
    """The answer is at least one call of `functions`, at most `most`, and nothing else; or it is what `otherwise` says.

    `special` are the ids of the model's added tokens by their text: a marker that is one of them is that token.
    `reasoning` is that of `Constraint`. Raises `InvalidRequest` for arguments that cannot be enforced.
    """
    calls = _calls(notation, special, most)
    rules = [rule for at, function in enumerate(functions) for rule in _call_rules(at, function, notation, special)]
    one = f"one: {' | '.join(f'call_{at}' for at in range(len(functions)))}"
    start = [f"start: {_begun(notation, special)} {calls}"]
    if otherwise is not None and otherwise.document is not None:
        start = [f"{start[0]} | document", f"document: {inline_json(json.dumps(otherwise.document))}"]
    elif otherwise is not None:
        start = _or_text(notation, special, calls, otherwise.reserved)
    return Constraint(kind=ConstraintKind.CALLS, text="\n".join([*start, one, *rules]), reasoning=reasoning)


def _or_text(notation: ToolFormat, special: Mapping[str, int], calls: str, reserved: Sequence[str]) -> list[str]:
    """Text, in which what begins a call can only lead to calls."""
    begin = notation.begin
    if begin in special:
        return [f"start: TEXT | TEXT {literal(begin, special)} {calls}", f"TEXT: {text_without(escaped(begin))}"]
    if begin:
        return [f"start: TEXT | head {calls}", f"head[lazy]: {until(begin)}", f"TEXT: {text_without(escaped(begin))}"]
    # A message that begins as a call does is one: only then the parser looks for any.
    opening = "[" if notation.body is Body.PYTHON else "{"
    begun = [escaped(text) for text in (opening, notation.lead, *reserved) if text]
    lead = f"({literal(notation.lead, special)} {_SPACE})?" if notation.lead else ""
    text = text_without(rf"[\s\x1c-\x1f]*({'|'.join(begun)})", is_only_at_start=True)
    return [f"start: TEXT | {_SPACE} {lead} {calls}", f"TEXT: {text}"]


def _begun(notation: ToolFormat, special: Mapping[str, int]) -> str:
    """The marker that leads the first call, if there is one."""
    return literal(notation.begin, special)


def _calls(notation: ToolFormat, special: Mapping[str, int], most: int | None) -> str:
    """What follows the marker that leads the first call, if there is one."""
    begin, end = literal(notation.begin, special), literal(notation.end, special)
    match notation.body:
        case Body.PYTHON:
            return f'"[" {_several("one", _COMMA, "one", most)} "]"'
        case Body.OBJECTS if not _is_named(notation, special):
            return f'/ ?/ "[" {_several("one", _COMMA, "one", most)} "]"'
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


def _call_rules(at: int, function: Function, notation: ToolFormat, special: Mapping[str, int]) -> list[str]:
    """The rules of one function's calls, the first of which is `call_{at}`."""
    name, arguments = function.name, f"arguments_{at}"
    schema = function.schema
    if notation.body is Body.PYTHON:
        check_name(name, "function")
        return [f'call_{at}: {literal(f"{name}(", {})} {arguments} ")"', *python_arguments(arguments, schema)]
    rule = f"{arguments}: {inline_json(json.dumps(schema))}"
    if notation.body is Body.OBJECTS and _is_named(notation, special):
        check_name(name, "function")
        return [f"call_{at}: {literal(name, {})} {literal(notation.separator, special)} {arguments}", rule]
    key = "parameters" if notation.lead else "arguments"  # as each notation's models were trained to write
    head = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{key}": '
    return [f'call_{at}: {literal(head, {})} {arguments} "}}"', rule]


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
