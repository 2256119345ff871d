"""From the form that a request asks for to the engine's constraint, checked at the door."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from servery.engine import constraint as constraints
from servery.engine.constraint import Constraint, Reasoning
from servery.engine.errors import InvalidRequest
from servery.engine.structure.door import Door
from servery.engine.structure.schema import without_annotations
from servery.wire.errors import ApiError, invalid
from servery.wire.structure import Wanted

_PARAM = "constraint"  # the engine's name for what the client gave under another


async def constraint_for(wanted: Wanted | None, door: Door, reasoning: Reasoning | None = None) -> Constraint | None:
    """The constraint that a request asks for, None if its answer is free and its reasoning has no budget.

    Raises `ApiError` naming the client's field and the reason for one that cannot be enforced.
    """
    if wanted is None:
        has_budget = reasoning is not None and reasoning.budget is not None
        return constraints.anything(reasoning) if reasoning is not None and has_budget else None
    with constraint_errors(wanted.param):
        constraint = _constraint(wanted, reasoning)
        await door.check(constraint)
    return constraint


def document_schema(wanted: Wanted) -> Mapping[str, Any] | None:
    """The JSON schema of what is asked for; None if it is no JSON document."""
    if wanted.kind == "json_object":
        return {"type": "object"}
    if wanted.kind == "json_schema":
        schema: dict[str, Any] = wanted.value
        return schema if wanted.strict else without_annotations(schema)
    return None


@contextlib.contextmanager
def constraint_errors(param: str | None) -> Iterator[None]:
    """Inside, what the engine says of a constraint is told of the client's field."""
    try:
        yield
    except (InvalidRequest, ApiError) as error:
        if param is None or error.param != _PARAM:
            raise
        told = str(error).replace(f"'{_PARAM}'", _PARAM, 1)
        raise invalid(_renamed(told, param), param) from error


def _renamed(message: str, param: str) -> str:
    return f"'{param}'{message.removeprefix(_PARAM)}" if message.startswith(f"{_PARAM} ") else message


def _constraint(wanted: Wanted, reasoning: Reasoning | None) -> Constraint:
    if (schema := document_schema(wanted)) is not None:
        return constraints.json_schema(schema, reasoning)
    match wanted.kind:
        case "regex":
            return constraints.regex(wanted.value, reasoning)
        case "choice":
            return constraints.choice(wanted.value, reasoning)
        case _:
            return constraints.grammar(wanted.value, reasoning)
