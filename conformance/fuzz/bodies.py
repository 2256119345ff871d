"""Bodies of requests: those that are right, and what a few changes make of them."""

import copy
import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from conformance.fuzz.values import anything, schemas, texts
from servery.wire.adapters import LoadAdapterRequest
from servery.wire.anthropic import AnthropicRequest
from servery.wire.batches import BatchRequest
from servery.wire.chat import ChatRequest
from servery.wire.completions import CompletionRequest
from servery.wire.embeddings import EmbeddingRequest
from servery.wire.rerank import RerankRequest
from servery.wire.responses import ResponsesRequest
from servery.wire.tokenize import TokenizeRequest

MODEL = "amuse"
_USER = {"role": "user", "content": "What is 2 + 3?"}
_WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}}, "required": ["city"]},
}
_CHAT: dict[str, Any] = {"model": MODEL, "messages": [_USER], "max_tokens": 8}
_TOOLS = [{"type": "function", "function": _WEATHER}]
_ANTHROPIC: dict[str, Any] = {"model": MODEL, "messages": [_USER], "max_tokens": 8}
_ANTHROPIC_TOOLS = [{"name": "get_weather", "input_schema": _WEATHER["parameters"]}]
_RESPONSES: dict[str, Any] = {"model": MODEL, "input": "What is 2 + 3?", "max_output_tokens": 8}
_CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}

_RIGHT: Mapping[str, tuple[dict[str, Any], ...]] = {
    "/v1/chat/completions": (
        _CHAT,
        {**_CHAT, "stream": True, "stream_options": {"include_usage": True}},
        {**_CHAT, "n": 2, "logprobs": True, "top_logprobs": 2, "stop": ["5"], "seed": 1},
        {**_CHAT, "tools": _TOOLS, "stream": True},
        {**_CHAT, "tools": _TOOLS, "tool_choice": "required", "max_tokens": 30},
        {**_CHAT, "messages": [_USER, {"role": "assistant", "tool_calls": [_CALL]},
                               {"role": "tool", "tool_call_id": "c1", "content": "rain"}], "tools": _TOOLS},
        {**_CHAT, "response_format": {"type": "json_object"}},
        {**_CHAT, "guided_choice": ["yes", "no"]},
    ),
    "/v1/completions": (
        {"model": MODEL, "prompt": "Once", "max_tokens": 4},
        {"model": MODEL, "prompt": [[1, 2], [3]], "max_tokens": 4, "stream": True, "logprobs": 2},
        {"model": MODEL, "prompt": ["a", "b"], "max_tokens": 0, "echo": True, "logprobs": 1},
        {"model": MODEL, "prompt": "Once", "guided_regex": "[a-z]{1,4}", "max_tokens": 6},
    ),
    "/v1/embeddings": (
        {"model": MODEL, "input": "text"},
        {"model": MODEL, "input": ["a", "b"], "encoding_format": "base64", "dimensions": 4},
    ),
    "/v1/rerank": ({"model": MODEL, "query": "a", "documents": ["a", "b"], "top_n": 1},),
    "/v1/messages": (
        _ANTHROPIC,
        {**_ANTHROPIC, "stream": True, "system": "Be brief."},
        {**_ANTHROPIC, "tools": _ANTHROPIC_TOOLS, "tool_choice": {"type": "any"}, "max_tokens": 30},
        {**_ANTHROPIC, "messages": [_USER, {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}]},
    ),
    "/v1/messages/count_tokens": ({"model": MODEL, "messages": [_USER]},),
    "/v1/responses": (
        _RESPONSES,
        {**_RESPONSES, "stream": True},
        {**_RESPONSES, "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}], "store": False},
        {**_RESPONSES, "tools": [{"type": "function", **_WEATHER}], "text": {"format": {"type": "json_object"}}},
    ),
    "/v1/responses/input_tokens": ({"model": MODEL, "input": "hi"},),
    "/v1/batches": ({"input_file_id": "file-1", "endpoint": "/v1/completions", "completion_window": "24h"},),
    "/v1/load_lora_adapter": ({"lora_name": "a", "lora_path": "a"},),
    "/v1/unload_lora_adapter": ({"lora_name": "a"},),
    "/tokenize": ({"model": MODEL, "prompt": "text"}, {"messages": [_USER], "return_token_strs": True}),
    "/detokenize": ({"model": MODEL, "tokens": [1, 2, 3]},),
}  # fmt: skip
PATHS = tuple(_RIGHT)
_REQUESTS = (
    AnthropicRequest, BatchRequest, ChatRequest, CompletionRequest, EmbeddingRequest, LoadAdapterRequest, RerankRequest,
    ResponsesRequest, TokenizeRequest,
)  # fmt: skip
_FIELDS = sorted({name for request in _REQUESTS for name in request.__struct_fields__})
_SCHEMA_PLACES = ("guided_json", "parameters", "schema", "input_schema", "json")


@st.composite
def values(draw: st.DrawFn, path: str) -> Any:
    """A request's body for `path` as a value: right, or changed in a few places."""
    value = copy.deepcopy(draw(st.sampled_from(_RIGHT[path])))
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 1, 2, 4)))):
        _change(draw, value)
    return draw(anything) if draw(st.integers(0, 30)) == 0 else value


def _change(draw: st.DrawFn, value: dict[str, Any]) -> None:
    """Set, replace or remove something, here or deeper down."""
    inner = [item for item in _containers(value) if item]
    is_deep = bool(inner) and draw(st.integers(0, 1)) == 1
    place = draw(st.sampled_from(inner)) if is_deep else value
    if isinstance(place, list):
        place[draw(st.integers(0, len(place) - 1))] = draw(anything)
        return
    what = draw(st.sampled_from(("add", "replace", "replace", "remove", "schema", "repeat")))
    name = draw(st.sampled_from(sorted(place)) if what in ("replace", "remove", "repeat") and place else _names)
    if what == "remove":
        place.pop(name, None)
    elif what == "schema":
        place[draw(st.sampled_from(_SCHEMA_PLACES))] = draw(schemas)
    elif what == "repeat" and isinstance(place.get(name), list):
        place[name] = place[name] * draw(st.sampled_from((0, 2, 200)))
    else:
        place[name] = draw(anything)


_names = st.one_of(st.sampled_from(_FIELDS), texts)


def _containers(value: Any) -> list[Any]:
    """Everything inside that has parts."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    inside = [part for part in parts if isinstance(part, dict | list)]
    return inside + [deeper for part in inside for deeper in _containers(part)]


@st.composite
def bodies(draw: st.DrawFn, path: str) -> bytes:
    """A body's bytes: JSON of `values`, at times broken."""
    data = json.dumps(draw(values(path)), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    match draw(st.sampled_from(("whole",) * 8 + ("cut", "spoilt", "deep", "other", "twice"))):
        case "cut":
            return data[: draw(st.integers(0, len(data)))]
        case "spoilt":
            at = draw(st.integers(0, len(data)))
            return data[:at] + draw(st.binary(max_size=6)) + data[at + draw(st.integers(0, 3)) :]
        case "deep":
            depth = draw(st.sampled_from((100, 1_100, 100_000)))
            return b'{"messages":' + b"[" * depth + b"]" * depth + b"}"
        case "other":
            return draw(
                st.sampled_from(
                    (b"", b" ", b"null", b"NaN", b"[]", b'"', b"\xff", b"\xef\xbb\xbf{}", b"1e999", b"{}{}")
                )
            )
        case "twice":
            return data[:-1] + b', "model": "amuse"}'
        case _:
            return data
