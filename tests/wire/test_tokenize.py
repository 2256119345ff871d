import json
from typing import Any

import pytest

from servery.wire.errors import ApiError
from servery.wire.tokenize import decode_detokenize, decode_tokenize, encode_text, encode_tokens


@pytest.mark.parametrize("fields", [{}, {"prompt": "a", "messages": []}, {"messages": []}, {"prompt": "a", "x": 1}])
def test_a_request_needs_exactly_one_of_prompt_and_messages(fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError):
        decode_tokenize(json.dumps(fields).encode())


def test_token_ids_must_be_integers() -> None:
    assert decode_detokenize(b'{"tokens": [1, 2]}').tokens == [1, 2]
    with pytest.raises(ApiError, match=r"tokens\[0\]"):
        decode_detokenize(b'{"tokens": ["a"]}')


def test_answers_have_vllms_shape() -> None:
    assert json.loads(encode_tokens([5, 6], 2048, ["a", "b"])) == {
        "count": 2,
        "max_model_len": 2048,
        "tokens": [5, 6],
        "token_strs": ["a", "b"],
    }
    assert json.loads(encode_text("ab")) == {"prompt": "ab"}


@pytest.mark.parametrize(
    ("param", "value"),
    [("tools", []), ("chat_template_kwargs", {"mood": "good"}), ("add_generation_prompt", False)],
)
def test_what_only_a_chat_has_is_refused_with_a_prompt(param: str, value: Any) -> None:
    chat = {"messages": [{"role": "user", "content": "a"}], param: value}
    assert getattr(decode_tokenize(json.dumps(chat).encode()), param) == value
    with pytest.raises(ApiError, match=f"'{param}' needs 'messages'; a 'prompt' is not rendered") as caught:
        decode_tokenize(json.dumps({"prompt": "a", param: value}).encode())
    assert (caught.value.status, caught.value.param) == (400, param)
