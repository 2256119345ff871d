"""vLLM's parameters: done, taken where they ask for nothing, or refused by name."""

import json
from typing import Any

import pytest

from servery.wire.chat import ChatRequest, decode_chat
from servery.wire.completions import decode_completion
from servery.wire.errors import ApiError

HARMLESS: dict[str, Any] = {
    "min_tokens": 0, "include_stop_str_in_output": False, "skip_special_tokens": True, "priority": 0, "bad_words": [],
    "spaces_between_special_tokens": True, "request_id": "a-1", "cache_salt": "s", "use_beam_search": False,
    "length_penalty": 1.0, "early_stopping": False, "return_tokens_as_token_ids": False, "return_token_ids": False,
    "logits_processors": [], "kv_transfer_params": None, "vllm_xargs": None, "guided_decoding_backend": "auto",
    "prompt_logprobs": None, "truncate_prompt_tokens": None, "best_of": 1, "echo": False,
    "structured_outputs": {
        "json_object": True, "disable_any_whitespace": False, "disable_fallback": True, "whitespace_pattern": None,
        "disable_additional_properties": False,
    },
}  # fmt: skip
OF_CHATS = {
    "include_reasoning": True,
    "add_special_tokens": False,
    "documents": [],
    "chat_template": None,
    "mm_processor_kwargs": None,
}


def chat(**fields: Any) -> ChatRequest:
    return decode_chat(json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}).encode())


def test_what_asks_for_nothing_is_taken() -> None:
    assert chat(**HARMLESS, **OF_CHATS).skips_special_tokens
    decode_completion(json.dumps({"model": "m", "prompt": "x", **HARMLESS, "add_special_tokens": True}).encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", 1), ("bad_words", ["x"]), ("prompt_logprobs", 1), ("truncate_prompt_tokens", 5),
        ("use_beam_search", True), ("length_penalty", 1.5), ("early_stopping", True), ("return_token_ids", True),
        ("return_tokens_as_token_ids", True), ("logits_processors", ["os.system"]), ("vllm_xargs", {"a": 1}),
        ("kv_transfer_params", {"a": 1}), ("guided_decoding_backend", "outlines"), ("guided_whitespace_pattern", " "),
        ("best_of", 2), ("echo", True), ("chat_template", "{{ x }}"), ("documents", [{}]), ("add_special_tokens", True),
        ("mm_processor_kwargs", {"a": 1}),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**{field: value})
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, field, "unsupported_parameter")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("allowed_token_ids", [], "'allowed_token_ids' is empty"),
        ("request_id", "a b", "'request_id' is 'a b'; it must have"),
        ("request_id", "", "'request_id' is ''"),
        ("cache_salt", "", "'cache_salt' has 0 characters"),
    ],
)
def test_a_value_that_means_nothing_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**{field: value})
    assert (caught.value.param, caught.value.message.startswith(message)) == (field, True)


@pytest.mark.parametrize("field", ["disable_any_whitespace", "disable_additional_properties", "whitespace_pattern"])
def test_what_json_looks_like_is_said_otherwise(field: str) -> None:
    value = " " if field == "whitespace_pattern" else True
    with pytest.raises(ApiError, match=f"'structured_outputs.{field}' is not supported"):
        chat(structured_outputs={"json_object": True, field: value})
