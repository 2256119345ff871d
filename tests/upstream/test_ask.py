import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from servery.upstream.ask import Api, Ask, read_head
from servery.wire.anthropic_answer import AnthropicForm
from servery.wire.chat import ChatRequest, UserMessage
from servery.wire.chat_answer import ChatForm
from servery.wire.errors import ApiError
from servery.wire.message import MessageDelta
from servery.wire.responses import ResponsesRequest
from servery.wire.responses_answer import ResponsesForm
from servery.wire.responses_items import Item, MessageItem
from servery.wire.usage import Usage

HI = [{"role": "user", "content": "hi"}]
BODIES: dict[Api, dict[str, Any]] = {
    Api.CHAT: {"messages": HI},
    Api.COMPLETIONS: {"prompt": "hi"},
    Api.EMBEDDINGS: {"input": "hi"},
    Api.RERANK: {"query": "hi", "documents": ["a"]},
    Api.MESSAGES: {"messages": HI, "max_tokens": 5},
    Api.RESPONSES: {"input": "hi"},
    Api.GENERATE: {"inputs": "hi"},
}


def ask(api: Api, model: str = "m", **fields: Any) -> Ask:
    body = json.dumps({"model": "alias", **BODIES[api], **fields}).encode()
    return Ask(
        api=api, body=body, head=read_head(body), model=model, base="m", answer_id="id", created=5,
        conversation=Remembered() if api is Api.RESPONSES else None,
    )  # fmt: skip


@dataclass
class Remembered:
    """One earlier message, and what was kept."""

    is_known: bool = True
    kept: list[tuple[str, str]] = field(default_factory=list)

    def history(self) -> Sequence[Item]:
        return [MessageItem(role="user", content="before")]

    def keep(self, request: ResponsesRequest, response: dict[str, Any], said: list[Item]) -> None:
        self.kept.append((request.model, response["status"]))


@pytest.mark.parametrize("api", list(Api))
def test_every_api_is_decoded_for_the_model_that_the_name_stands_for(api: Api) -> None:
    one = ask(api, "m:sql")
    assert (one.head.model, one.typed().model, one.adapter, one.typed()) == ("alias", "m:sql", "sql", one.typed())
    assert ask(api).adapter is None


@pytest.mark.parametrize("api", list(Api))
def test_a_body_that_its_api_does_not_have_is_refused_when_it_is_decoded(api: Api) -> None:
    one = ask(api, nonsense=1)
    with pytest.raises(ApiError, match="nonsense"):
        one.typed()


def test_the_head_is_read_whatever_else_is_in_the_body() -> None:
    body = (
        b'{"model":"m","new":{"x":1},"stream":true,"stream_options":{"include_usage":true,"y":2},"max_output_tokens":7}'
    )
    head = read_head(body)
    assert (head.model, head.stream, head.include_usage, head.most_tokens) == ("m", True, True, 7)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"", None, "invalid_json"),
        (b"{", None, "invalid_json"),
        (b"{}", "model", "missing_required_parameter"),
        (b'{"model":"m","stream":1}', "stream", "invalid_type"),
        (b'{"x":' + b"[" * 100_000, None, "invalid_json"),
    ],
)
def test_a_head_that_cannot_be_read_says_why(body: bytes, param: str | None, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_head(body)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


@pytest.mark.parametrize(
    "rest", [b'"\xff": 1', b'"x": "\xff"', b'"x": {"\xff": 1}', b'"\\ud800": 1', b'"x": "\xed\xa0\x80"']
)
def test_what_is_no_utf_8_is_refused_with_the_head_wherever_it_stands(rest: bytes) -> None:
    """Later it would be a failure of whoever reads the field: of a placement, of a provider, of the ledger."""
    with pytest.raises(ApiError) as refused:
        read_head(b'{"model": "m", %b}' % rest)
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")
    assert read_head('{"model": "m", "é": "日本"}'.encode()).model == "m"


def test_a_rewritten_body_keeps_every_other_value_as_it_was_written() -> None:
    body = b'{"model": "m", "temperature": 1.50, "seed":12345678901234567890123, "x": {"b": 1,  "a": [ ]}, "user": "u"}'
    one = Ask(api=Api.CHAT, body=body, head=msgspec.convert({"model": "m"}, type(read_head(b'{"model":"m"}'))),
              model="m", base="m", answer_id="id", created=5)  # fmt: skip
    rewritten = one.rewritten(model="gpt", stream_options={"include_usage": True}, user=msgspec.UNSET)
    assert rewritten == (
        b'{"model":"gpt","temperature":1.50,"seed":12345678901234567890123,"x":{"b": 1,  "a": [ ]},'
        b'"stream_options":{"include_usage":true}}'
    )


@pytest.mark.parametrize(
    ("fields", "is_repeatable"),
    [({}, False), ({"temperature": 0}, True), ({"seed": 5}, True), ({"temperature": 1}, False)],
)
def test_greedy_and_seeded_requests_can_be_repeated(fields: dict[str, Any], is_repeatable: bool) -> None:
    assert ask(Api.CHAT, **fields).head.is_repeatable is is_repeatable


def test_each_chat_api_has_its_own_form_new_for_each_attempt() -> None:
    forms = [type(ask(api).form()) for api in (Api.CHAT, Api.MESSAGES, Api.RESPONSES)]
    assert forms == [ChatForm, AnthropicForm, ResponsesForm]
    one = ask(Api.CHAT)
    assert one.form() is not one.form()
    with pytest.raises(ValueError, match="embeddings"):
        ask(Api.EMBEDDINGS).form()


def test_a_conversation_that_is_known_comes_first_and_keeps_the_answer() -> None:
    one = ask(Api.RESPONSES)
    assert isinstance(one.conversation, Remembered)
    assert isinstance(request := one.typed(), ChatRequest)
    assert request.messages == [UserMessage(content="before"), UserMessage(content="hi")]

    form, usage = one.form(), Usage.of(1, 1, 0)
    form.start(usage)
    form.delta(MessageDelta(content="yes", finish_reason="stop"))
    form.end(usage)
    assert one.conversation.kept == [("m", "completed")]


def test_only_a_request_that_goes_on_with_nothing_kept_here_can_be_relayed() -> None:
    one = ask(Api.RESPONSES)
    assert isinstance(one.conversation, Remembered)
    assert not one.is_relayable
    one.conversation.is_known = False
    assert one.is_relayable
    assert ask(Api.CHAT).is_relayable


@pytest.mark.parametrize(("api", "prefix"), [(Api.CHAT, "chatcmpl-"), (Api.COMPLETIONS, "cmpl-")])
def test_the_id_that_a_client_gives_is_shown_to_it_and_used_for_nothing_else(api: Api, prefix: str) -> None:
    assert (ask(api, request_id="a1").shown_id, ask(api, request_id="a1").answer_id) == (f"{prefix}a1", "id")
    assert ask(api).shown_id == "id"
