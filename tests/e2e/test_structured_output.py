"""The official client asks a real server for answers of a form."""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest
from openai.types.chat import (
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionToolParam,
    ChatCompletionUserMessageParam,
)

from tests.e2e.server_process import ServerProcess

ASK: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Describe a small animal."}]


class Animal(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    legs: int = pydantic.Field(ge=0, le=100)
    kind: Literal["bird", "fish", "other"]


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_the_client_parses_a_pydantic_model(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model="amuse", messages=ASK, response_format=Animal, max_tokens=200)

    assert isinstance(answer.choices[0].message.parsed, Animal)
    assert answer.choices[0].finish_reason == "stop"


def test_a_streamed_document_is_the_same(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="amuse", messages=ASK, response_format=Animal, max_tokens=200, seed=3
    ) as stream:
        streamed = stream.get_final_completion().choices[0].message.parsed
    whole = client.chat.completions.parse(model="amuse", messages=ASK, response_format=Animal, max_tokens=200, seed=3)
    assert streamed == whole.choices[0].message.parsed


def test_a_json_object_needs_no_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="amuse", messages=ASK, response_format={"type": "json_object"}, max_tokens=200, temperature=0
    )
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


@pytest.mark.parametrize(
    ("extra", "pattern"),
    [
        ({"structured_outputs": {"choice": ["cat", "dog"]}}, "cat|dog"),
        ({"structured_outputs": {"regex": "[0-9]{3}"}}, "[0-9]{3}"),
        ({"guided_grammar": 'start: "<" /[a-f]{2}/ ">"'}, "<[a-f]{2}>"),
    ],
)
def test_other_forms_come_as_extra_fields(client: openai.OpenAI, extra: dict[str, Any], pattern: str) -> None:
    chat = client.chat.completions.create(model="amuse", messages=ASK, max_tokens=20, extra_body=extra)
    legacy = client.completions.create(model="amuse", prompt="It is a", max_tokens=20, extra_body=extra, n=2)
    texts = [chat.choices[0].message.content or "", *(choice.text for choice in legacy.choices)]
    assert [bool(re.fullmatch(pattern, text)) for text in texts] == [True] * 3


TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "maximum": 9}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("get_weather", "get_time")
]
NAMED: ChatCompletionNamedToolChoiceParam = {"type": "function", "function": {"name": "get_time"}}


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_can_be_forced(client: openai.OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(
        model="amuse", messages=ASK, tools=TOOLS, tool_choice=choice, max_tokens=400, parallel_tool_calls=False
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name in (["get_time"] if choice is NAMED else ["get_weather", "get_time"])
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("tool_calls", None)


def test_strict_tools_leave_the_model_its_words(client: openai.OpenAI) -> None:
    tool: ChatCompletionToolParam = {"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}
    answer = client.chat.completions.create(model="amuse", messages=ASK, tools=[tool], max_tokens=60)
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"not": {}}}}},
            "'response_format.json_schema.schema' cannot be enforced: it uses keywords that cannot be enforced: 'not' at '/'; say what is allowed",
        ),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}],
                "tool_choice": "required",
            },
            "'tools[0].function.parameters' cannot be enforced: it uses keywords that cannot be enforced: 'not' at '/'; say what is allowed",
        ),
        ({"guided_regex": "(a"}, "'guided_regex' cannot be enforced: it is not a regular expression"),
        (
            {"guided_grammar": "start: <|nope|>"},
            "'guided_grammar' cannot be enforced: line 1, column 8: unknown special",
        ),
    ],
)
def test_what_cannot_be_enforced_is_a_400_that_says_why(
    client: openai.OpenAI, extra: dict[str, Any], told: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="amuse", messages=ASK, max_tokens=20, extra_body=extra)
    assert caught.value.body is not None
    assert told in caught.value.message
