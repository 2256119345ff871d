import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.wire.chat import ChatRequest, decode_chat
from servery.wire.errors import ApiError

HELLO = '{"role": "user", "content": "hello"}'


def body(extra: str = "", messages: str = HELLO) -> bytes:
    return f'{{"model": "m", "messages": [{messages}]{extra}}}'.encode()


def refusal(data: bytes) -> tuple[int, str, str | None, str | None]:
    with pytest.raises(ApiError) as caught:
        decode_chat(data)
    error = caught.value
    return error.status, error.message, error.param, error.code


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "The request body is empty; send a JSON object."),
        (b" \n", "The request body is empty; send a JSON object."),
        (b'{"model": ', "The request body is not valid JSON: Expecting value at line 1, column 11."),
        (b"{'model': 1}", "not valid JSON: Expecting property name enclosed in double quotes at line 1, column 2."),
        (body() + b"x", "not valid JSON: Extra data at line 1, column"),
        (body(', "temperature": NaN'), "not valid JSON: NaN is not a JSON number."),
        (body(', "temperature": -Infinity'), "not valid JSON: -Infinity is not a JSON number."),
        (b'{"model": "\xff\xfe"}', "not valid JSON: it is not UTF-8 (byte 0xff at offset 11)."),
        (body(messages=r'{"role": "user", "content": "\ud800"}'), r"a \u escape is one half of a surrogate pair"),
        (body(messages=r'{"role": "user", "content": "\udc00 x"}'), r"a \u escape is one half of a surrogate pair"),
        (b'\xef\xbb\xbf{"model": "m"}', "not valid JSON: Unexpected UTF-8 BOM"),
        (body(', "metadata": {"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "nested too deeply"),
        (b"[" * 100_000, "Invalid type: expected object, but got array instead."),
        (body(', "n": 1, "n": 2'), "The key 'n' occurs twice in one object"),
        (body(messages='{"role": "user", "content": "a", "content": "b"}'), "The key 'content' occurs twice"),
        (b"null", "Invalid type: expected object, but got null instead."),
        (b"[]", "Invalid type: expected object, but got array instead."),
    ],
)
def test_what_is_not_a_json_object_is_refused_with_the_fault(data: bytes, message: str) -> None:
    status, told, _, code = refusal(data)
    assert (status, message in told) == (400, True), told
    assert code == ("invalid_type" if "Invalid type" in told else "invalid_json")


@pytest.mark.parametrize(
    ("data", "message", "param", "code"),
    [
        (b'{"messages": []}', "Missing required parameter: 'model'.", "model", "missing_required_parameter"),
        (b'{"model": "m"}', "Missing required parameter: 'messages'.", "messages", "missing_required_parameter"),
        (
            body(', "temprature": 1'),
            "Unknown parameter: 'temprature'. Did you mean 'temperature'?",
            "temprature",
            "unknown_parameter",
        ),
        (body(', "zzz": 1'), "Unknown parameter: 'zzz'.", "zzz", "unknown_parameter"),
        (
            body(messages='{"role": "user", "content": "x", "mood": 1}'),
            "Unknown parameter: 'messages[0].mood'.",
            "messages[0].mood",
            "unknown_parameter",
        ),
        (
            body(', "temperature": "hot"'),
            "Invalid type for 'temperature': expected number, but got string instead.",
            "temperature",
            "invalid_type",
        ),
        (
            body(', "n": 1.5'),
            "Invalid type for 'n': expected integer, but got number instead.",
            "n",
            "invalid_type",
        ),
        (
            body(', "n": true'),
            "Invalid type for 'n': expected integer, but got boolean instead.",
            "n",
            "invalid_type",
        ),
        (
            body(', "stop": ["a", 1]'),
            "Invalid type for 'stop[1]': expected string, but got integer instead.",
            "stop[1]",
            "invalid_type",
        ),
        (
            body(messages='{"role": "user", "content": 5}'),
            "Invalid type for 'messages[0].content': expected string or array, but got integer instead.",
            "messages[0].content",
            "invalid_type",
        ),
        (
            body(messages='{"role": "bot", "content": "x"}'),
            "Invalid value for 'messages[0].role': 'bot'. Use 'assistant', 'developer', 'system', 'tool' or 'user'.",
            "messages[0].role",
            "invalid_value",
        ),
        (
            body(messages='{"content": "x"}'),
            "Missing required parameter: 'messages[0].role'.",
            "messages[0].role",
            "missing_required_parameter",
        ),
        (
            body(', "temperature": 1e999'),
            "Invalid value for 'temperature': Number out of range.",
            "temperature",
            "invalid_value",
        ),
        (
            body(', "logit_bias": {"hello": 1}'),
            "Invalid type for 'logit_bias': expected integer, but got string instead.",
            "logit_bias",
            "invalid_type",
        ),
    ],
)
def test_each_wrong_field_is_named_with_its_path(data: bytes, message: str, param: str, code: str) -> None:
    assert refusal(data) == (400, message, param, code)


def test_keys_that_differ_in_a_long_list_of_numbers_are_different_keys() -> None:
    first, second = (f"[{number}]" for number in ("1" * 70, "2" * 70))
    fields = f'"{first}": 1, "{second}": 2'

    assert decode_chat(body(f', "metadata": {{{fields}}}')).metadata == {first: 1, second: 2}
    assert refusal(body(f', "metadata": {{{fields}, "{first}": 3}}'))[3] == "invalid_json"


def test_null_means_not_given() -> None:
    fields = [name for name in ChatRequest.__struct_fields__ if name not in ("model", "messages")]
    nulls = "".join(f', "{name}": null' for name in fields)

    assert decode_chat(body(nulls)) == decode_chat(body())


def test_numbers_of_any_length_are_refused_or_taken_but_never_crash() -> None:
    assert decode_chat(body(', "seed": 1' + "0" * 30)).seed == 10**30
    assert refusal(body(', "seed": 1' + "0" * 6000))[0] == 400


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_an_api_error(data: bytes) -> None:
    with pytest.raises(ApiError):
        decode_chat(data)


words = st.text("aZ0 é\n\0", max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(ChatRequest.__struct_fields__), json_values, max_size=6))
def test_no_values_raise_anything_but_an_api_error(fields: dict[str, object]) -> None:
    with contextlib.suppress(ApiError):
        decode_chat(json.dumps({"model": "m", **fields}).encode())
