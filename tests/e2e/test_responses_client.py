"""The official client's `responses` against a real server."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.e2e.server_process import ServerProcess


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_the_answer_and_the_stream_are_the_same(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="amuse", input="What is 2 + 3?", max_output_tokens=50, temperature=0)
    with client.responses.stream(model="amuse", input="What is 2 + 3?", max_output_tokens=50, temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        streamed = stream.get_final_response()

    assert whole.output_text == text == streamed.output_text
    assert (whole.status, streamed.status) == ("completed", "completed")
    assert (whole.temperature, whole.top_p, streamed.top_p) == (0, 1, 1), "what the client leaves out is shown, too"
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens


def test_a_conversation_goes_on_from_a_response(client: openai.OpenAI) -> None:
    first = client.responses.create(model="amuse", input="My name is Ada.", temperature=0, max_output_tokens=40)
    second = client.responses.create(
        model="amuse", input="What is 2 + 3?", previous_response_id=first.id, temperature=0, max_output_tokens=40
    )
    again = client.responses.create(
        model="amuse",
        input=[
            {"role": "user", "content": "My name is Ada."},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "What is 2 + 3?"},
        ],
        temperature=0,
        max_output_tokens=40,
    )

    assert second.previous_response_id == first.id
    assert (second.output_text, second.usage and second.usage.input_tokens) == (
        again.output_text,
        again.usage and again.usage.input_tokens,
    )


def test_a_response_can_be_read_again_and_forgotten(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="amuse", input="hello", max_output_tokens=5)

    assert client.responses.retrieve(answer.id).output == answer.output
    (item,) = client.responses.input_items.list(answer.id).data
    assert item.type == "message"
    client.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError, match="There is no response"):
        client.responses.retrieve(answer.id)
    with pytest.raises(openai.NotFoundError, match="There is no response"):
        client.responses.create(model="amuse", input="and?", previous_response_id=answer.id)


def test_the_items_of_the_input_are_read_by_pages(client: openai.OpenAI) -> None:
    asked = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    answer = client.responses.create(model="amuse", input=asked, max_output_tokens=5)  # type: ignore[arg-type]

    def texts(**page: Any) -> list[str]:
        items: list[Any] = list(client.responses.input_items.list(answer.id, **page))
        return [item.content[0].text for item in items]

    assert (texts(), texts(order="asc", limit=1)) == (["two", "one"], ["one", "two"])
    for wrong in ({"limit": 0}, {"order": "up"}, {"after": "msg_x"}, {"extra_query": {"until": 1}}):
        with pytest.raises(openai.BadRequestError):
            texts(**wrong)


def test_what_is_not_to_be_stored_is_not(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="amuse", input="hello", max_output_tokens=5, store=False)

    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_tokens_are_counted_as_the_answer_counts_them(client: openai.OpenAI) -> None:
    counted = client.responses.input_tokens.count(model="amuse", input="hello", instructions="Be brief.")
    answer = client.responses.create(model="amuse", input="hello", instructions="Be brief.", max_output_tokens=5)

    assert answer.usage is not None
    assert counted.input_tokens == answer.usage.input_tokens
