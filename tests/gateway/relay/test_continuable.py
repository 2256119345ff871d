from typing import Any

import msgspec
import pytest

from servery.gateway.relay.continuable import can_be_continued, can_be_repeated
from servery.upstream.ask import Api, Ask, read_head

FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}


def ask(api: Api, fields: dict[str, Any]) -> Ask:
    body = msgspec.json.encode({"model": "m", "prompt": "hi", **fields})
    return Ask(api=api, body=body, head=read_head(body), model="m", base="m", answer_id="x", created=1)


@pytest.mark.parametrize(
    ("api", "fields", "repeated", "continued"),
    [
        (Api.CHAT, {}, True, True),
        (Api.CHAT, {"n": 1, "logprobs": False, "response_format": {"type": "text"}, "tools": []}, True, True),
        (Api.CHAT, {"n": 2}, True, False),
        (Api.CHAT, {"logprobs": True}, True, False),
        (Api.CHAT, {"response_format": {"type": "json_object"}}, True, False),
        (Api.CHAT, {"response_format": FORM}, True, False),
        (Api.CHAT, {"guided_regex": "a+"}, True, False),
        (Api.CHAT, {"min_tokens": 5}, True, False),
        (Api.MESSAGES, {"output_config": {"format": FORM}}, True, False),
        (Api.RESPONSES, {"text": {"format": FORM}}, True, False),
        (Api.RESPONSES, {"text": {"format": {"type": "text"}}}, True, True),
        (Api.COMPLETIONS, {}, True, True),
        (Api.COMPLETIONS, {"echo": False, "logprobs": None}, True, True),
        (Api.COMPLETIONS, {"logprobs": 0}, True, False),
        (Api.COMPLETIONS, {"best_of": 2}, False, True),
        (Api.RESPONSES, {"previous_response_id": "resp_elsewhere"}, False, True),
        (Api.COMPLETIONS, {"n": 2}, True, False),
        (Api.COMPLETIONS, {"echo": True}, True, False),
        (Api.COMPLETIONS, {"prompt": ["a", "b"]}, True, False),
        (Api.COMPLETIONS, {"prompt": [1, 2]}, True, False),
        (Api.EMBEDDINGS, {}, False, True),
    ],
)
def test_what_was_asked_tells_how_it_may_go_on(
    api: Api, fields: dict[str, Any], repeated: bool, continued: bool
) -> None:
    asked = ask(api, fields)
    assert (can_be_repeated(asked), can_be_continued(asked)) == (repeated, continued)
