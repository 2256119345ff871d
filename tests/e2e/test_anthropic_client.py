"""Anthropic's official client, unmodified, against a real server."""

from collections.abc import Iterator

import anthropic
import pytest
from anthropic.types import MessageParam

from tests.e2e.server_process import ServerProcess

GREEDY = {"temperature": 0}
HELLO: list[MessageParam] = [{"role": "user", "content": "What is 2 + 3?"}]


@pytest.fixture
def client(server: ServerProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_a_message_is_answered(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(model="amuse", max_tokens=50, messages=HELLO, system="Be brief.")

    (block,) = answer.content
    assert block.type == "text"
    assert block.text
    assert (answer.role, answer.stop_reason, answer.model) == ("assistant", "end_turn", "amuse")
    assert answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0) > 0
    assert answer.usage.output_tokens > 0


def test_the_answer_and_the_stream_are_the_same(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(model="amuse", max_tokens=50, messages=HELLO, extra_body=GREEDY)
    with client.messages.stream(model="amuse", max_tokens=50, messages=HELLO, extra_body=GREEDY) as stream:
        streamed = stream.get_final_message()

    assert [block.to_dict() for block in whole.content] == [
        {"type": "text", "text": block.text} for block in streamed.content if block.type == "text"
    ]
    assert (streamed.stop_reason, streamed.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(
        model="amuse", max_tokens=50, messages=HELLO, extra_body=GREEDY, stop_sequences=["5"]
    )

    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "5")


def test_an_answer_that_was_begun_is_continued(client: anthropic.Anthropic) -> None:
    turns: list[MessageParam] = [*HELLO, {"role": "assistant", "content": "2 + 3 ="}]
    answer = client.messages.create(model="amuse", max_tokens=50, messages=turns, extra_body=GREEDY)

    (block,) = answer.content
    assert block.type == "text"
    assert block.text.strip().startswith("5")


def test_tokens_are_counted_as_the_answer_counts_them(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="amuse", messages=HELLO, system="Be brief.")
    usage = client.messages.create(model="amuse", max_tokens=1, messages=HELLO, system="Be brief.").usage

    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_errors_are_the_client_s_own(client: anthropic.Anthropic, server: ServerProcess) -> None:
    with pytest.raises(anthropic.NotFoundError, match="The model 'nothing' does not exist") as missing:
        client.messages.create(model="nothing", max_tokens=5, messages=HELLO)
    assert missing.value.request_id
    with pytest.raises(anthropic.BadRequestError, match="'temperature' is -1; it must be between 0"):
        client.messages.create(model="amuse", max_tokens=5, messages=HELLO, extra_body={"temperature": -1})
