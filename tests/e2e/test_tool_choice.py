"""Forced calls and bounded reasoning, asked for by the official clients.

The models write at random but for what they are held to: amuse at temperature 1, and one of random weights that reasons.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import anthropic
import jsonschema
import openai
import pytest
from anthropic.types import MessageParam, ToolParam
from openai.types.chat import ChatCompletionUserMessageParam
from openai.types.responses import ResponseFunctionToolCall

from tests.e2e.server_process import ServerProcess, serving
from tests.engine import tiny_model

ASK: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]
SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 8},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "unit": {"enum": ["C", "F"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "find": {
        "type": "object",
        "properties": {
            "where": {
                "type": "object",
                "properties": {"id": {"type": "integer", "minimum": -9, "maximum": 99}},
                "additionalProperties": False,
            }
        },
        "required": ["where"],
    },
}
TOOLS: list[Any] = [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in SCHEMAS.items()]
FLAT: list[Any] = [{"type": "function", "name": n, "parameters": s} for n, s in SCHEMAS.items()]
ANTHROPIC: list[ToolParam] = [{"name": name, "input_schema": schema} for name, schema in SCHEMAS.items()]
NAMED = {"type": "function", "function": {"name": "find"}}
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
REASONS = tiny_model.CHAT_TEMPLATE.replace("<|assistant|>{% endif", "<|assistant|><think>{% endif") + (
    "{# </think> #}{% if tools %}{# <tool_call> #}{% endif %}"
)
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture(scope="module")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`reasons`, whose template begins the reasoning, and `plain`, whose template knows no tools."""
    folder = tmp_path_factory.mktemp("models")
    reasons = tiny_model.save(folder / "reasons", template=REASONS, markers=MARKERS, max_position_embeddings=4096)
    plain = tiny_model.save(folder / "plain", template=PLAIN)
    with serving(f"reasons={reasons}", f"plain={plain}") as server:
        yield server


def client_of(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def check(calls: Iterable[tuple[str, str]], names: set[str]) -> int:
    """Every call is of one of `names` and validates; returns how many there are."""
    found = 0
    for name, arguments in calls:
        assert name in names
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])
        found += 1
    return found


@pytest.mark.parametrize(
    ("choice", "names", "parallel"),
    [
        ("required", {"find", "get_weather"}, False),
        (NAMED, {"find"}, None),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}, {"find"}, False),
    ],
)
@pytest.mark.parametrize("model", ["amuse", "reasons", "plain"])
def test_every_forced_call_is_one_and_validates(
    server: ServerProcess, random_models: ServerProcess, model: str, choice: Any, names: set[str], parallel: bool | None
) -> None:
    with client_of(server if model == "amuse" else random_models) as client:
        extra: dict[str, Any] = {"thinking_token_budget": 20} if model == "reasons" else {}
        if parallel is not None:
            extra["parallel_tool_calls"] = parallel
        answer = client.chat.completions.create(
            model=model, messages=ASK, tools=TOOLS, tool_choice=choice, n=4, temperature=1, seed=1, extra_body=extra
        )
    for one in answer.choices:
        called = [(c.function.name, c.function.arguments) for c in one.message.tool_calls or [] if c.type == "function"]
        assert (one.finish_reason, one.message.content) == ("tool_calls", None)
        assert check(called, names) == 1


def test_a_streamed_call_is_the_same_as_a_whole_one(server: ServerProcess) -> None:
    with client_of(server) as client:
        asked: dict[str, Any] = {
            "model": "amuse", "messages": ASK, "tools": TOOLS, "tool_choice": "required", "seed": 5,
            "parallel_tool_calls": False,
        }  # fmt: skip
        whole = client.chat.completions.create(**asked).choices[0].message.tool_calls or []
        deltas = [
            delta
            for chunk in client.chat.completions.create(**asked, stream=True)
            for choice in chunk.choices
            for delta in choice.delta.tool_calls or []
        ]
    (call,) = whole
    assert call.type == "function"
    assert "".join(delta.function.name or "" for delta in deltas if delta.function) == call.function.name
    assert "".join(delta.function.arguments or "" for delta in deltas if delta.function) == call.function.arguments
    assert len(deltas) > 3


@pytest.mark.parametrize("model", ["amuse", "reasons"])
def test_responses_can_be_forced_to_call(server: ServerProcess, random_models: ServerProcess, model: str) -> None:
    with client_of(server if model == "amuse" else random_models) as client:
        response = client.responses.create(
            model=model, input="hello", tools=FLAT, tool_choice={"type": "function", "name": "get_weather"},
            max_output_tokens=None if model == "amuse" else 900,
        )  # fmt: skip
    calls = [item for item in response.output if isinstance(item, ResponseFunctionToolCall)]
    if response.status == "completed":
        assert check([(call.name, call.arguments) for call in calls], {"get_weather"}) == 1
    else:
        assert model == "reasons"  # it thinks until its tokens are used up


@pytest.mark.parametrize(("choice", "names"), [("any", {"find", "get_weather"}), ("tool", {"find"})])
def test_messages_can_be_forced_to_use_a_tool(
    server: ServerProcess, random_models: ServerProcess, choice: str, names: set[str]
) -> None:
    """With thinking, which has its budget; without, where the model does not think."""
    turns: list[MessageParam] = [{"role": "user", "content": "hello"}]
    wanted: Any = {"type": choice, "disable_parallel_tool_use": True, **({"name": "find"} if choice == "tool" else {})}
    for model, where in (("amuse", server), ("reasons", random_models)):
        with anthropic.Anthropic(base_url=where.url, api_key="none", max_retries=0, timeout=60) as client:
            answer = client.messages.create(
                model=model, max_tokens=1500, messages=turns, tools=ANTHROPIC, tool_choice=wanted,
                thinking={"type": "enabled", "budget_tokens": 1024},
            )  # fmt: skip
        kinds = [block.type for block in answer.content]
        assert kinds == (["thinking", "tool_use"] if model == "reasons" else ["tool_use"])
        assert answer.stop_reason == "tool_use"
        (used,) = [block for block in answer.content if block.type == "tool_use"]
        assert check([(used.name, json.dumps(used.input))], names) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_budget_ends_the_reasoning_and_the_answer_goes_on(random_models: ServerProcess, *, stream: bool) -> None:
    asked = {
        "model": "reasons", "messages": ASK, "n": 2, "max_tokens": 60, "seed": 2, "stream": stream,
        "thinking_token_budget": 25, "structured_outputs": {"choice": ["yes", "no"]},
    }  # fmt: skip
    if stream:
        asked["stream_options"] = {"include_usage": True}
        lines = random_models.ask("POST", "/v1/chat/completions", asked).body.decode().splitlines()
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        usage = chunks[-1]["usage"]
        messages = [{"content": "", "reasoning_content": ""} for _ in range(2)]
        for choice in (choice for chunk in chunks for choice in chunk["choices"]):
            for name, text in choice["delta"].items():
                if name in messages[choice["index"]]:
                    messages[choice["index"]][name] += text or ""
    else:
        body = random_models.ask("POST", "/v1/chat/completions", asked).json
        usage, messages = body["usage"], [choice["message"] for choice in body["choices"]]
    assert all(message["content"] in ("yes", "no") for message in messages)
    assert all(message["reasoning_content"] for message in messages)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 2 * (25 + 1)  # the end marker is one of them


def test_what_cannot_be_had_is_a_400(server: ServerProcess) -> None:
    with client_of(server) as client:
        for extra, told in (
            ({"thinking_token_budget": 10}, "this model is not known to reason"),
            ({"reasoning_effort": "low"}, "knows no levels of reasoning"),
            (
                {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "fnid"}}},
                "Did you mean 'find'?",
            ),
        ):
            with pytest.raises(openai.BadRequestError, match=told):
                client.chat.completions.create(model="amuse", messages=ASK, max_tokens=5, extra_body=extra)
