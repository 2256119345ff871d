import json
from typing import Any

import pytest

from servery.upstream.ask import Api
from servery.upstream.failure import Kind, UpstreamFailure
from servery.upstream.relay.body import RelayedBody
from servery.upstream.upstream import Chunk
from servery.wire.errors import ApiError
from servery.wire.usage import Usage

ANSWERS: dict[Api, dict[str, Any]] = {
    Api.CHAT: {
        "choices": [{"index": 0, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2},
        "model": "theirs",
        "odd": None,
    },
    Api.COMPLETIONS: {"choices": [{"index": 1, "text": "a", "finish_reason": "stop"}], "model": "theirs"},
    Api.EMBEDDINGS: {
        "data": [{"embedding": "AAAA"}],
        "model": "theirs",
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    },
    Api.RERANK: {"results": [], "model": "theirs"},
    Api.MESSAGES: {
        "content": [],
        "stop_reason": "max_tokens",
        "model": "theirs",
        "usage": {"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 2},
    },
    Api.RESPONSES: {
        "output": [],
        "status": "completed",
        "error": None,
        "model": "theirs",
        "usage": {"input_tokens": 9, "output_tokens": 2},
    },
}
COUNTED = {
    Api.CHAT: Usage.of(9, 2, 0), Api.EMBEDDINGS: Usage.of(9, 0, 0), Api.MESSAGES: Usage.of(9, 2, 4),
    Api.RESPONSES: Usage.of(9, 2, 0),
}  # fmt: skip
REASONS = {Api.CHAT: [(0, "stop")], Api.COMPLETIONS: [(1, "stop")], Api.MESSAGES: [(0, "length")], Api.RESPONSES: [(0, "stop")]}  # fmt: skip


def relayed(api: Api, body: bytes) -> list[Chunk]:
    reader = RelayedBody("gpt", api, "mine")
    middle = len(body) // 2
    return [*reader.feed(body[:middle]), *reader.feed(body[middle:]), *reader.end()]


@pytest.mark.parametrize("api", list(ANSWERS))
def test_an_answer_is_passed_on_with_the_clients_name_for_the_model(api: Api) -> None:
    chunks = relayed(api, json.dumps(ANSWERS[api]).encode())
    ends = [(each.index, each.finish_reason) for each in chunks if each.finish_reason is not None]

    assert [json.loads(each.data) for each in chunks if each.data] == [{**ANSWERS[api], "model": "mine"}]
    assert (chunks[-1].usage, ends) == (COUNTED.get(api), REASONS.get(api, []))


def test_several_completions_end_one_by_one_before_the_answer() -> None:
    choices = [
        {"index": at, "message": {"content": "hi"}, "finish_reason": why} for at, why in ((0, "stop"), (1, "length"))
    ]
    *ends, last = relayed(Api.CHAT, json.dumps({"choices": choices, "model": "theirs"}).encode())

    assert [(end.index, end.finish_reason, end.data) for end in ends] == [(0, "stop", b""), (1, "length", b"")]
    assert (json.loads(last.data)["choices"], last.finish_reason) == (choices, None)


def test_a_name_that_is_right_already_leaves_every_byte_as_it_is() -> None:
    body = b'{ "choices":[] ,"model":"mine"  }'

    assert relayed(Api.CHAT, body) == [Chunk(data=body)]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"choices": [{"index": "x"}]}', b'{"choices": 1'])
def test_what_is_no_answer_is_malformed(body: bytes) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        relayed(Api.CHAT, body)

    assert caught.value.kind is Kind.MALFORMED


@pytest.mark.parametrize("api", [Api.CHAT, Api.MESSAGES, Api.RESPONSES])
def test_an_error_with_a_good_status_is_an_error(api: Api) -> None:
    body = {"error": {"message": "boom", "type": "api_error"}, **({"output": []} if api is Api.RESPONSES else {})}

    with pytest.raises((UpstreamFailure, ApiError), match="boom"):
        relayed(api, json.dumps(body).encode())
