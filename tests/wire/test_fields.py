"""Every field of every request: a value of another type is a 400 that names the field, and none is passed over."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from servery.wire.adapters import LoadAdapterRequest, UnloadAdapterRequest, decode_load, decode_unload
from servery.wire.anthropic import AnthropicRequest, CountRequest, decode_anthropic, decode_anthropic_count
from servery.wire.batches import BatchRequest, decode_batch_request
from servery.wire.chat import ChatRequest, decode_chat
from servery.wire.completions import CompletionRequest, decode_completion
from servery.wire.embeddings import EmbeddingRequest, decode_embedding
from servery.wire.errors import ApiError
from servery.wire.rerank import RerankRequest, decode_rerank
from servery.wire.responses import ResponsesRequest, decode_responses
from servery.wire.tokenize import DetokenizeRequest, TokenizeRequest, decode_detokenize, decode_tokenize

SAID = [{"role": "user", "content": "hi"}]
REQUESTS: dict[type[msgspec.Struct], tuple[Callable[[bytes], Any], dict[str, Any]]] = {
    ChatRequest: (decode_chat, {"model": "m", "messages": SAID}),
    CompletionRequest: (decode_completion, {"model": "m", "prompt": "hi"}),
    EmbeddingRequest: (decode_embedding, {"model": "m", "input": "hi"}),
    RerankRequest: (decode_rerank, {"model": "m", "query": "q", "documents": ["d"]}),
    TokenizeRequest: (decode_tokenize, {"messages": SAID}),
    DetokenizeRequest: (decode_detokenize, {"tokens": [1]}),
    AnthropicRequest: (lambda body: decode_anthropic(body).chat(), {"model": "m", "messages": SAID, "max_tokens": 5}),
    CountRequest: (lambda body: decode_anthropic_count(body).chat(), {"model": "m", "messages": SAID}),
    ResponsesRequest: (lambda body: decode_responses(body).chat([]), {"model": "m", "input": "hi"}),
    LoadAdapterRequest: (decode_load, {"lora_name": "a", "lora_path": "b"}),
    UnloadAdapterRequest: (decode_unload, {"lora_name": "a"}),
    BatchRequest: (
        decode_batch_request,
        {"input_file_id": "f", "endpoint": "/v1/completions", "completion_window": "24h"},
    ),
}
VALUES: tuple[Any, ...] = (3.5, "x", True, [[{}]], {"x": 1})


def cases() -> list[Any]:
    """For each field the first value that its type does not allow; those of any type are there to be refused."""
    return [
        pytest.param(
            request, field.name, next((value for value in VALUES if not _fits(value, field.type)), {"x": 1}),
            id=f"{request.__name__}.{field.name}",
        )
        for request in REQUESTS
        for field in msgspec.structs.fields(request)
    ]  # fmt: skip


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.parametrize(("request_", "field", "wrong"), cases())
def test_a_field_of_another_type_is_refused_by_name(request_: type[msgspec.Struct], field: str, wrong: Any) -> None:
    decode, right = REQUESTS[request_]
    decode(json.dumps(right).encode())
    with pytest.raises(ApiError) as caught:
        decode(json.dumps({**right, field: wrong}).encode())

    error = caught.value
    assert error.status == 400
    assert (error.param or "").removeprefix(field)[:1] in ("", ".", "[")
    assert (error.param or "").startswith(field)
    assert f"'{error.param}'" in error.message


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: each.__name__)
def test_a_field_that_nobody_knows_is_refused_by_name(request_: type[msgspec.Struct]) -> None:
    decode, right = REQUESTS[request_]
    with pytest.raises(ApiError) as caught:
        decode(json.dumps({**right, "modle": 1}).encode())
    assert (caught.value.param, caught.value.code) == ("modle", "unknown_parameter")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        pytest.param(request, field.name, id=f"{request.__name__}.{field.name}")
        for request in REQUESTS
        for field in msgspec.structs.fields(request)
        if field.required
    ],
)
def test_a_field_that_must_be_there_is_missed_by_name(request_: type[msgspec.Struct], field: str) -> None:
    decode, right = REQUESTS[request_]
    with pytest.raises(ApiError) as caught:
        decode(json.dumps({name: value for name, value in right.items() if name != field}).encode())
    assert (caught.value.status, caught.value.param) == (400, field)
