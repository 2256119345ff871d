"""What a request's tools, its choice and its wish for one call at a time come to."""

from typing import Any

import pytest

from servery.wire.errors import ApiError
from servery.wire.tools import (
    AllowedChoice,
    AllowedTools,
    ChosenFunction,
    Function,
    NamedChoice,
    Tool,
    ToolUse,
    check_tools,
    tool_use,
)

A, B = (Tool(Function(name)) for name in "ab")
STRICT = Tool(Function("s", strict=True))
NAMED = NamedChoice(ChosenFunction("b"))


def function_param(at: int, field: str) -> str:
    return f"tools[{at}].function.{field}"


def allowed(mode: Any, *names: str) -> AllowedChoice:
    return AllowedChoice(AllowedTools(mode, [NamedChoice(ChosenFunction(name)) for name in names]))


@pytest.mark.parametrize(
    ("choice", "parallel", "use"),
    [
        (None, None, ToolUse(shown=[A, B], callable=[(0, A), (1, B)])),
        ("auto", False, ToolUse(shown=[A, B], callable=[(0, A), (1, B)], is_single=True)),
        ("none", True, ToolUse()),
        ("required", True, ToolUse(shown=[A, B], callable=[(0, A), (1, B)], is_forced=True)),
        (NAMED, True, ToolUse(shown=[A, B], callable=[(1, B)], is_forced=True, is_single=True)),
        (allowed("auto", "b"), None, ToolUse(shown=[A, B], callable=[(1, B)])),
        (allowed("required", "a", "b"), None, ToolUse(shown=[A, B], callable=[(0, A), (1, B)], is_forced=True)),
    ],
)
def test_a_choice_is_which_may_and_whether_one_must_be_called(choice: Any, parallel: bool | None, use: ToolUse) -> None:
    check_tools([A, B], choice, function_param, 64)
    assert tool_use([A, B], choice, parallel) == use


@pytest.mark.parametrize(
    ("tools", "choice", "is_kept_to"),
    [
        ([A, B], "auto", False),
        ([A, STRICT], "auto", True),
        ([A, STRICT], "none", False),
        ([A, B], NAMED, True),
        ([A, B], allowed("auto", "a"), True),
        ([A, B], allowed("auto", "a", "b"), False),
    ],
)
def test_the_model_is_trusted_where_nothing_is_promised(tools: list[Tool], choice: Any, is_kept_to: bool) -> None:
    assert tool_use(tools, choice, None).is_kept_to is is_kept_to


@pytest.mark.parametrize(
    ("tools", "choice", "param", "told"),
    [
        ([A, A], None, "tools[1].function.name", "'tools[1].function.name' is 'a', as that of tools[0] is."),
        (
            [Tool(Function("a b"))], None, "tools[0].function.name",
            "Invalid 'tools[0].function.name': string does not match pattern. Expected a string that matches",
        ),
        (
            [Tool(Function("a", parameters={"type": "array"}))], None, "tools[0].function.parameters.type",
            "'tools[0].function.parameters' has the type \"array\"; it must be \"object\": arguments have names",
        ),
        ([Tool(Function("a", parameters={"type": ["null"]}))], None, "tools[0].function.parameters.type", "'tools[0]"),
        ([Tool(Function("a", parameters={"type": 5}))], None, "tools[0].function.parameters.type", "'tools[0]"),
        ([], "required", "tool_choice", "'tool_choice' is only allowed when 'tools' are given."),
        ([A], "any", "tool_choice", "Invalid value for 'tool_choice': 'any'. Use 'auto', 'none', 'required', or {"),
        ([A], NAMED, "tool_choice", "'tool_choice' names the function 'b', which is not in 'tools'."),
        ([A], allowed("auto", "a", "b"), "tool_choice", "'tool_choice' names the function 'b', which is not in"),
        ([A], allowed("required"), "tool_choice", "'tool_choice' allows no tool; use 'none' for that."),
    ],
)  # fmt: skip
def test_what_can_never_be_followed_is_refused(tools: list[Tool], choice: Any, param: str, told: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_tools(tools, choice, function_param, 64)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.message.startswith(told)
