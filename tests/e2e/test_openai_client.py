"""The official client, unmodified, against a real server."""

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from tests.e2e.server_process import ServerProcess

HELLO: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "What is 2 + 3?"}]


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="amuse", messages=HELLO, max_tokens=50, user="someone")

    assert answer.choices[0].message.content
    assert (answer.choices[0].message.role, answer.choices[0].finish_reason) == ("assistant", "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model == "amuse"


def test_the_answer_and_the_stream_are_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="amuse", messages=HELLO, max_tokens=50, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="amuse", messages=HELLO, max_tokens=50, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] == ["stop"]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert (chunks[-1].choices, chunks[-1].usage is not None) == ([], True)


def test_the_asynchronous_client_streams_many_at_a_time(server: ServerProcess) -> None:
    async def one(client: openai.AsyncOpenAI, number: int) -> str:
        stream = await client.chat.completions.create(
            model="amuse", messages=[{"role": "user", "content": f"What is {number} + 1?"}], max_tokens=30, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def story() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            together = await asyncio.gather(*(one(client, number) for number in range(8)))
            alone = [await one(client, number) for number in range(8)]
        assert together == alone

    asyncio.run(story())


def test_several_completions_stop_strings_and_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="amuse", messages=HELLO, max_tokens=8, n=3, temperature=1.0, seed=5, logprobs=True, top_logprobs=2
    )
    again = client.chat.completions.create(model="amuse", messages=HELLO, max_tokens=8, n=3, temperature=1.0, seed=5)

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [c.message.content for c in answer.choices] == [c.message.content for c in again.choices]
    assert answer.choices[0].logprobs is not None
    for token in answer.choices[0].logprobs.content or []:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 2


def test_legacy_completions_take_text_and_tokens_and_echo(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="amuse-draft", prompt=["Once upon", "The cat"], max_tokens=5, echo=True, logprobs=1, temperature=0
    )
    streamed = client.completions.create(
        model="amuse-draft", prompt="The cat", max_tokens=5, temperature=0, stream=True
    )

    assert [choice.text[:7] for choice in answer.choices] == ["Once up", "The cat"]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.token_logprobs[0] is None
    assert "The cat" + "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[1].text


def test_embeddings_are_the_same_as_floats_and_as_base64(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model="amuse", input=["a cat", "a dog"])  # the client asks for base64
    plain = client.embeddings.create(model="amuse", input=["a cat", "a dog"], encoding_format="float")
    short = client.embeddings.create(model="amuse", input="a cat", dimensions=8)

    for ours, theirs in zip(packed.data, plain.data, strict=True):
        assert ours.embedding == pytest.approx(theirs.embedding, abs=1e-6)
        assert math.isclose(sum(number**2 for number in ours.embedding), 1.0, abs_tol=1e-5)
    assert len(short.data[0].embedding) == 8


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["amuse", "amuse-draft"]
    assert client.models.retrieve("amuse").id == "amuse"


def test_a_shared_prompt_is_cached(client: openai.OpenAI) -> None:
    text = "The shared beginning of a long conversation about nothing at all. " * 6
    messages: Any = [{"role": "system", "content": text}, *HELLO]
    for _ in range(2):
        answer = client.chat.completions.create(model="amuse", messages=messages, max_tokens=2)

    assert answer.usage is not None
    details = answer.usage.prompt_tokens_details
    assert details is not None
    assert details.cached_tokens is not None
    assert answer.usage.prompt_tokens // 2 < details.cached_tokens < answer.usage.prompt_tokens


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"model": "gpt-5"}, openai.NotFoundError, "model_not_found"),
        ({"messages": []}, openai.BadRequestError, "invalid_value"),
        ({"n": 10**9}, openai.BadRequestError, "invalid_value"),
        ({"max_tokens": -1}, openai.BadRequestError, "invalid_value"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "unknown_parameter"),
        ({"reasoning_effort": "low"}, openai.BadRequestError, "unsupported_parameter"),
        (
            {"messages": [{"role": "user", "content": "long " * 9000}]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_those_that_the_client_knows(
    client: openai.OpenAI, fields: dict[str, Any], error: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "amuse", "messages": HELLO, "stream": stream, **fields})
    assert caught.value.code == code
