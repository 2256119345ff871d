"""The functions that a model may call, and which of them it must: `tools`, `tool_choice`, `parallel_tool_calls`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec

from servery.wire.errors import did_you_mean, invalid, shown
from servery.wire.names import check_name

_WORDS = ("auto", "none", "required")


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """A tool that the chat template shows to the model."""

    function: Function


class ChosenFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that is meant."""

    name: str


class NamedChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """The answer is to be a call of one function."""

    function: ChosenFunction


class AllowedTools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of the tools that are shown, those that may be called; with the mode "required" one of them must."""

    mode: Literal["auto", "required"]
    tools: list[NamedChoice]


class AllowedChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"):
    """Only some of the tools may be called."""

    allowed_tools: AllowedTools


ToolChoice: TypeAlias = str | NamedChoice | AllowedChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """What a request wants of its tools.

    `shown` are for the model to read, of which it may call `callable`, each with its number among the request's tools;
    with `is_forced` it must. `is_single`: at most one call.
    """

    shown: Sequence[Tool] = ()
    callable: Sequence[tuple[int, Tool]] = ()
    is_forced: bool = False
    is_single: bool = False

    @property
    def is_kept_to(self) -> bool:
        """Whether what the model writes must be constrained: it must call, or not everything, or a strict function."""
        is_strict = any(tool.function.strict for _, tool in self.callable)
        return self.is_forced or is_strict or 0 < len(self.callable) < len(self.shown)

    @property
    def names(self) -> frozenset[str]:
        """The functions that may be called."""
        return frozenset(tool.function.name for _, tool in self.callable)


def tool_use(tools: Sequence[Tool] | None, choice: ToolChoice | None, parallel: bool | None) -> ToolUse:
    """What the three parameters come to; they have been checked."""
    if choice == "none" or not tools:
        return ToolUse()
    names = _chosen(choice)
    return ToolUse(
        shown=tools,
        callable=[(at, tool) for at, tool in enumerate(tools) if names is None or tool.function.name in names],
        is_forced=_is_forced(choice),
        is_single=parallel is False or isinstance(choice, NamedChoice),
    )


def check_tools(
    tools: Sequence[Tool] | None,
    choice: ToolChoice | None,
    function_param: Callable[[int, str], str],
    most_name_chars: int,
) -> None:
    """Raise `ApiError` for functions that cannot be called or told apart, and for a choice that can never be followed.

    `function_param` says under which name the client gave a field of a tool's function.
    """
    names: list[str] = []
    for at, tool in enumerate(tools or ()):
        param, name = function_param(at, "name"), tool.function.name
        check_name(param, name, most_name_chars)
        if name in names:
            raise invalid(f"'{param}' is '{shown(name)}', as that of tools[{names.index(name)}] is.", param)
        names.append(name)
        _check_parameters(tool.function.parameters, function_param(at, "parameters"))
    if choice is not None:
        _check_choice(tools, choice, names)


def _check_parameters(schema: dict[str, Any] | None, param: str) -> None:
    kind = "object" if schema is None else schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        message = f"'{param}' has the type {shown(msgspec.json.encode(kind).decode())}; it must be \"object\""
        raise invalid(f"{message}: arguments have names, so put the schema under 'properties'.", f"{param}.type")


def _check_choice(tools: Sequence[Tool] | None, choice: ToolChoice, names: Sequence[str]) -> None:
    if not tools:
        raise invalid("'tool_choice' is only allowed when 'tools' are given.", "tool_choice")
    if isinstance(choice, str) and choice not in _WORDS:
        choices = '\'auto\', \'none\', \'required\', or {"type": "function", "function": {"name": ...}}'
        raise invalid(f"Invalid value for 'tool_choice': '{shown(choice)}'. Use {choices}.", "tool_choice")
    if isinstance(choice, AllowedChoice) and not choice.allowed_tools.tools:
        raise invalid("'tool_choice' allows no tool; use 'none' for that.", "tool_choice")
    for name in sorted(_chosen(choice) or ()):
        if name not in names:
            message = f"'tool_choice' names the function '{shown(name)}', which is not in 'tools'."
            raise invalid(f"{message}{did_you_mean(name, names)}", "tool_choice")


def template_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools as chat templates expect them: the JSON that the client sent, without nulls."""
    return [{"type": "function", "function": _given(tool.function)} for tool in tools]


def _given(function: Function) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(function)
    return {name: value for name, value in fields.items() if value is not None}


def _chosen(choice: ToolChoice | None) -> set[str] | None:
    """The functions that a choice names; None if it is about all."""
    if isinstance(choice, NamedChoice):
        return {choice.function.name}
    if isinstance(choice, AllowedChoice):
        return {each.function.name for each in choice.allowed_tools.tools}
    return None


def _is_forced(choice: ToolChoice | None) -> bool:
    if isinstance(choice, AllowedChoice):
        return choice.allowed_tools.mode == "required"
    return choice == "required" or isinstance(choice, NamedChoice)
