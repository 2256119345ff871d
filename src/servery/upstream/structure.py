"""From the form that a request asks for to the engine's constraint, checked at the door."""

import contextlib
from collections.abc import Iterator

from servery.engine import constraint as constraints
from servery.engine.constraint import Constraint
from servery.engine.errors import InvalidRequest
from servery.engine.structure.door import Door
from servery.engine.structure.schema import without_annotations
from servery.wire.errors import ApiError, invalid
from servery.wire.structure import Wanted

_PARAM = "constraint"  # the engine's name for what the client gave under another


async def constraint_for(wanted: Wanted | None, door: Door, begins_after: str = "") -> Constraint | None:
    """The constraint that a request asks for, None if its answer is free.

    Raises `ApiError` naming the client's field and the reason for one that cannot be enforced.
    """
    if wanted is None:
        return None
    with constraint_errors(wanted):
        constraint = _constraint(wanted, begins_after)
        await door.check(constraint)
    return constraint


@contextlib.contextmanager
def constraint_errors(wanted: Wanted | None) -> Iterator[None]:
    """Inside, what the engine says of a constraint is told of the client's field."""
    try:
        yield
    except (InvalidRequest, ApiError) as error:
        if wanted is None or error.param != _PARAM:
            raise
        told = str(error).replace(f"'{_PARAM}'", _PARAM, 1)
        raise invalid(_renamed(told, wanted.param), wanted.param) from error


def _renamed(message: str, param: str) -> str:
    return f"'{param}'{message.removeprefix(_PARAM)}" if message.startswith(f"{_PARAM} ") else message


def _constraint(wanted: Wanted, begins_after: str) -> Constraint:
    match wanted.kind:
        case "json_schema":
            schema = wanted.value if wanted.strict else without_annotations(wanted.value)
            return constraints.json_schema(schema, begins_after)
        case "json_object":
            return constraints.json_object(begins_after)
        case "regex":
            return constraints.regex(wanted.value, begins_after)
        case "choice":
            return constraints.choice(wanted.value, begins_after)
        case _:
            return constraints.grammar(wanted.value, begins_after)
