"""What the engine is asked for when a chat has tools, a form, or a budget of reasoning."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from servery.engine import constraint
from servery.engine.constraint import ConstraintKind, Reasoning
from servery.engine.request import FinishReason, SamplingParams
from servery.upstream.upstream import Call
from servery.wire.anthropic import decode_anthropic
from servery.wire.chat import ChatRequest, decode_chat
from servery.wire.errors import ApiError
from servery.wire.responses import decode_responses
from tests.upstream.fake_engine import TEMPLATE, FakeEngine, asking, out
from tests.upstream.test_tool_calls import upstream

CALL = Call(id="chatcmpl-1")
END = out(end=FinishReason.STOP)
HELLO = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("add", "now")]
REASONS = TEMPLATE + "{# </think> #}"
BEGINS = TEMPLATE + "<think>\n{# </think> #}"
SWITCHED_OFF = TEMPLATE + "<think>\n\n</think>\n\n"
NO_TOOLS = "{% for m in messages %}{{ m.content }}{% endfor %}"


def chat(**fields: Any) -> ChatRequest:
    return decode_chat(json.dumps({"model": "m", "messages": HELLO, **fields}).encode())


async def asked(folder: Path, request: ChatRequest, template: str = TEMPLATE, **formats: str) -> FakeEngine:
    made, engine = await upstream(folder, END, template=template, **formats)
    async for _ in made.answer(asking(request, CALL), CALL):
        pass
    return engine


def params(folder: Path, request: ChatRequest, template: str = TEMPLATE, **formats: str) -> SamplingParams:
    return asyncio.run(asked(folder, request, template, **formats)).requests[0].params


def prompt(folder: Path, request: ChatRequest, template: str) -> str:
    return bytes(asyncio.run(asked(folder, request, template)).requests[0].prompt).decode()


def refusal(folder: Path, request: ChatRequest, template: str = TEMPLATE, **formats: str) -> tuple[str | None, str]:
    with pytest.raises(ApiError) as caught:
        asyncio.run(asked(folder, request, template, **formats))
    assert caught.value.status == 400
    return caught.value.param, caught.value.message


@pytest.mark.parametrize(
    ("template", "reasoning"),
    [
        (BEGINS, Reasoning(end="</think>", budget=7)),
        (REASONS, Reasoning(begin="<think>", end="</think>", budget=7)),
        (SWITCHED_OFF, None),
    ],
)
def test_a_budget_is_for_the_reasoning_that_may_come(
    tmp_path: Path, template: str, reasoning: Reasoning | None
) -> None:
    free = params(tmp_path, chat(thinking_token_budget=7), template).constraint
    assert free == (None if reasoning is None else constraint.anything(reasoning))
    held = params(tmp_path, chat(thinking_token_budget=7, guided_choice=["a"]), template).constraint
    assert held == constraint.choice(["a"], reasoning)
    forced = params(tmp_path, chat(thinking_token_budget=7, tools=TOOLS, tool_choice="required"), template).constraint
    assert forced is not None
    assert (forced.kind, forced.reasoning) == (ConstraintKind.CALLS, reasoning)


def test_without_a_budget_a_free_answer_stays_free(tmp_path: Path) -> None:
    assert params(tmp_path, chat(), BEGINS).constraint is None


def test_a_budget_for_a_model_that_does_not_reason_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, chat(thinking_token_budget=7)) == (
        "thinking_token_budget",
        (
            "'thinking_token_budget' is not supported by this server: this model is not known to reason; "
            "--reasoning-format can name how it does."
        ),
    )
    last = {"role": "assistant", "content": "so"}
    begun = chat(messages=[*HELLO, last], continue_final_message=True, thinking_token_budget=7)
    param, told = refusal(tmp_path, begun, REASONS)
    assert (param, "goes on with a message has no reasoning" in told) == ("thinking_token_budget", True)


def test_agents_of_anthropic_may_send_a_budget_to_every_model(tmp_path: Path) -> None:
    body = {"model": "m", "max_tokens": 9000, "messages": HELLO, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    request = decode_anthropic(json.dumps(body).encode()).chat()
    assert params(tmp_path, request).constraint is None
    assert params(tmp_path, request, BEGINS).constraint == constraint.anything(Reasoning(end="</think>", budget=1024))


SWITCH = TEMPLATE + "[{{ enable_thinking }}]"
LEVEL = TEMPLATE + "[{{ reasoning_effort }}]"
BOTH = TEMPLATE + "[{{ thinking }} {{ reasoning_effort }}]"
NAMES = (
    TEMPLATE + "[{% if reasoning_effort == 'none' or reasoning_effort == \"xhigh\" %}{{ reasoning_effort }}{% endif %}]"
)


@pytest.mark.parametrize(
    ("template", "effort", "told"),
    [
        (SWITCH, "none", "[False]"),
        (SWITCH, "minimal", "[False]"),
        (SWITCH, "low", "[True]"),
        (LEVEL, "minimal", "[low]"),
        (LEVEL, "medium", "[medium]"),
        (LEVEL, "xhigh", "[high]"),
        (BOTH, "none", "[False ]"),
        (BOTH, "high", "[True high]"),
        (NAMES, "none", "[none]"),
        (NAMES, "xhigh", "[xhigh]"),
    ],
)
def test_effort_is_told_to_the_template(tmp_path: Path, template: str, effort: str, told: str) -> None:
    assert prompt(tmp_path, chat(reasoning_effort=effort), template).endswith(told)


@pytest.mark.parametrize(
    ("template", "effort", "told"),
    [
        (TEMPLATE, "low", "the model's chat template knows no levels of reasoning, and no way to switch it off."),
        (LEVEL, "none", "this model's reasoning cannot be switched off; 'low' is the least."),
    ],
)
def test_effort_that_the_template_cannot_be_told_is_refused(
    tmp_path: Path, template: str, effort: str, told: str
) -> None:
    param, message = refusal(tmp_path, chat(reasoning_effort=effort), template)
    assert (param, message.partition(": ")[2]) == ("reasoning_effort", told)


def test_what_the_client_tells_the_template_itself_counts(tmp_path: Path) -> None:
    body = {
        "model": "m", "max_tokens": 9, "messages": HELLO, "thinking": {"type": "disabled"},
        "output_config": {"effort": "high"},
    }  # fmt: skip
    request = decode_anthropic(json.dumps(body).encode()).chat()
    assert prompt(tmp_path, request, SWITCH).endswith("[False]")


def test_reasoning_that_cannot_be_switched_off_is_not_taken_for_switched_off(tmp_path: Path) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": HELLO, "thinking": {"type": "disabled"}}
    request = decode_anthropic(json.dumps(body).encode()).chat()
    param, told = refusal(tmp_path, request, BEGINS)
    assert (param, "reasoning cannot be switched off; leave 'thinking' out." in told) == ("thinking", True)
    assert prompt(tmp_path, request, TEMPLATE)  # a model that does not reason has nothing to switch off


def test_a_template_that_only_begins_reasoning_shows_its_format(tmp_path: Path) -> None:
    only = TEMPLATE + "<think>\n"
    found = params(tmp_path, chat(thinking_token_budget=7), only).constraint
    assert found == constraint.anything(Reasoning(end="</think>", budget=7))


def test_forced_calls_need_no_template_that_shows_tools(tmp_path: Path) -> None:
    """The function's schema is what the model is held to; calls are plain JSON."""

    async def story() -> None:
        text = '{"name": "add", "parameters": {"a": 1}}'
        made, engine = await upstream(tmp_path, out(text), END, template=NO_TOOLS)
        request = chat(tools=TOOLS, tool_choice="required")
        answer = json.loads(b"".join([chunk.data async for chunk in made.answer(asking(request, CALL), CALL)]))
        (call,) = answer["choices"][0]["message"]["tool_calls"]
        assert call["function"] == {"name": "add", "arguments": '{"a": 1}'}
        assert engine.requests[0].prompt == list(b"hi")

    asyncio.run(story())


def test_a_document_leaves_the_way_to_calls_open(tmp_path: Path) -> None:
    wanted = params(
        tmp_path, chat(tools=TOOLS, response_format={"type": "json_object"}), tool_format="hermes"
    ).constraint
    assert wanted is not None
    assert (wanted.kind, "document" in wanted.text) == (ConstraintKind.CALLS, True)


@pytest.mark.parametrize(
    ("fields", "is_call"),
    [
        ({"guided_regex": ".*"}, False),
        ({"guided_choice": ["a", "b"]}, False),
        ({"guided_grammar": "start: /.*/"}, False),
        ({"response_format": {"type": "json_object"}}, True),
        ({"guided_regex": ".*", "tool_choice": "required"}, True),
        ({}, True),
    ],
)
def test_an_answer_of_another_form_is_no_call_unless_it_is_forced(
    tmp_path: Path, fields: dict[str, Any], is_call: bool
) -> None:
    async def story() -> None:
        text = '<tool_call>{"name": "add", "arguments": {}}</tool_call>'
        made, _ = await upstream(tmp_path, out(text), END, tool_format="hermes")
        request = chat(tools=TOOLS, **fields)
        answer = json.loads(b"".join([chunk.data async for chunk in made.answer(asking(request, CALL), CALL)]))
        (choice,) = answer["choices"]
        assert (choice["message"].get("content"), choice["finish_reason"]) == (
            (None, "tool_calls") if is_call else (text, "stop")
        )

    asyncio.run(story())


def test_tools_that_may_be_called_at_will_change_nothing(tmp_path: Path) -> None:
    assert params(tmp_path, chat(tools=TOOLS), tool_format="hermes").constraint is None


BAD = {"type": "object", "properties": {"a": {"not": {}}}}
GOOD = {"type": "object"}


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (
            chat(
                tools=[{"type": "function", "function": {"name": n, "parameters": p}} for n, p in (("f", GOOD), ("g", BAD))],
                tool_choice="required",
            ),
            "tools[1].function.parameters",
        ),
        (
            chat(tools=[{"type": "function", "function": {"name": "f", "parameters": BAD, "strict": True}}]),
            "tools[0].function.parameters",
        ),
        (
            decode_anthropic(
                json.dumps(
                    {"model": "m", "max_tokens": 9, "messages": HELLO, "tools": [{"name": "f", "input_schema": BAD}],
                     "tool_choice": {"type": "any"}}
                ).encode()
            ).chat(),
            "tools[0].input_schema",
        ),
        (
            decode_responses(
                json.dumps(
                    {"model": "m", "input": "hi", "tools": [{"type": "function", "name": "f", "parameters": BAD}],
                     "tool_choice": {"type": "function", "name": "f"}}
                ).encode()
            ).chat([]),
            "tools[0].parameters",
        ),
    ],
    ids=["required", "strict", "anthropic", "responses"],
)  # fmt: skip
def test_parameters_that_cannot_be_enforced_are_named_as_the_client_does(
    tmp_path: Path, request_: ChatRequest, param: str
) -> None:
    told = f"'{param}' cannot be enforced: it uses keywords that cannot be enforced: 'not' at '/properties/a'; say"
    named, message = refusal(tmp_path, request_, tool_format="hermes")
    assert (named, message.startswith(told)) == (param, True)


def test_strict_functions_need_a_known_notation(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f", "strict": True}}]
    param, told = refusal(tmp_path, chat(tools=tools), tool_format="none")
    assert (param, "--tool-format can name it" in told) == ("tools", True)
