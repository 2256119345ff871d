"""From the form that a request asks for to the engine's constraint, checked at the door."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servery.engine import constraint as constraints
from servery.engine.constraint import Constraint, Reasoning
from servery.engine.errors import InvalidRequest
from servery.engine.parsing.format import ToolFormat
from servery.engine.structure.calls import Function, calls_constraint
from servery.engine.structure.door import Door
from servery.engine.structure.schema import without_annotations
from servery.wire.chat import ChatRequest, NamedChoice, Tool
from servery.wire.errors import ApiError, invalid, unsupported
from servery.wire.structure import Wanted

# A function described without parameters has none.
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
_PARAM = "constraint"  # the engine's name for what the client gave under another


async def constraint_for(wanted: Wanted | None, door: Door, reasoning: Reasoning | None = None) -> Constraint | None:
    """The constraint that a request asks for, None if its answer is free.

    Raises `ApiError` naming the client's field and the reason for one that cannot be enforced.
    """
    if wanted is None:
        return None
    with constraint_errors(wanted):
        constraint = _constraint(wanted, reasoning)
        await door.check(constraint)
    return constraint


def wanted_of_chat(request: ChatRequest, notation: ToolFormat | None, special: Mapping[str, int]) -> Wanted | None:
    """What form the answer to a chat must have: that of a forced call, the one asked for, or that of strict tools.

    `special` are the model's special tokens. Raises `ApiError` if the model's way of writing calls is not known.
    """
    if not request.forced_tools and request.wanted_structure is not None:
        return request.wanted_structure
    tools = request.forced_tools or [tool for tool in request.shown_tools if tool.function.strict]
    if not tools:
        return None
    if notation is None:
        raise unsupported("tools", "it is not known how this model writes calls; --tool-format can name it.")
    is_single = request.parallel_tool_calls is False or isinstance(request.tool_choice, NamedChoice)
    callable_ = request.forced_tools or request.shown_tools
    calls = _Calls(callable_, notation, special, 1 if is_single else None, bool(request.forced_tools))
    return Wanted("tools", "calls", calls)


@dataclass(frozen=True, slots=True)
class _Calls:
    tools: Sequence[Tool]
    notation: ToolFormat
    special: Mapping[str, int]
    most: int | None
    is_forced: bool

    def constraint(self, reasoning: Reasoning | None) -> Constraint:
        functions = [self._function(tool) for tool in self.tools]
        return calls_constraint(
            functions, self.notation, self.special, most=self.most, is_forced=self.is_forced, reasoning=reasoning
        )  # fmt: skip

    def _function(self, tool: Tool) -> Function:
        # What is neither strict nor forced may be called with anything.
        is_kept_to = self.is_forced or bool(tool.function.strict)
        parameters = _NO_PARAMETERS if tool.function.parameters is None else tool.function.parameters
        return Function(tool.function.name, parameters if is_kept_to else None, bool(tool.function.strict))


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


def _constraint(wanted: Wanted, reasoning: Reasoning | None) -> Constraint:
    match wanted.kind:
        case "calls":
            calls: _Calls = wanted.value
            return calls.constraint(reasoning)
        case "json_schema":
            schema = wanted.value if wanted.strict else without_annotations(wanted.value)
            return constraints.json_schema(schema, reasoning)
        case "json_object":
            return constraints.json_object(reasoning)
        case "regex":
            return constraints.regex(wanted.value, reasoning)
        case "choice":
            return constraints.choice(wanted.value, reasoning)
        case _:
            return constraints.grammar(wanted.value, reasoning)
