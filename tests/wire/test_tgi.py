"""TGI's requests and answers."""

import json
from typing import Any

import pytest

from servery.wire.errors import ApiError, invalid, rate_limited
from servery.wire.tgi import TGI, Details, Token, decode_generate, encode_generated, encode_info, token_event

SCHEMA = {"type": "object"}


def decoded(inputs: str = "x", stream: bool | None = None, **parameters: Any) -> Any:
    return decode_generate(json.dumps({"inputs": inputs, "stream": stream, "parameters": parameters}).encode())


def test_without_parameters_the_likeliest_tokens_are_taken_whatever_the_model_s_defaults() -> None:
    completion = decode_generate(b'{"inputs":"x"}').completion("m")
    sampling = (completion.temperature, completion.top_k, completion.top_p, completion.min_p)
    assert (*sampling, completion.repetition_penalty) == (0.0, 0, 1.0, 0.0, 1.0)
    assert (completion.default_max_tokens, completion.max_tokens, completion.logprobs) == (100, None, None)
    assert completion.include_stop_str_in_output


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        ({"do_sample": True}, 1.0), ({"temperature": 0.5}, 0.5), ({"temperature": 1.0}, 0.0), ({"top_k": 5}, 1.0),
        ({"top_p": 0.9}, 1.0), ({"do_sample": False}, 0.0), ({"repetition_penalty": 1.2}, 0.0),
    ],
)  # fmt: skip
def test_tokens_are_drawn_when_a_parameter_says_so(parameters: dict[str, Any], temperature: float) -> None:
    assert decoded(**parameters).completion("m").temperature == temperature


def test_what_is_to_be_told_of_tokens_is_asked_of_the_engine() -> None:
    given = decoded(details=True, decoder_input_details=True, top_n_tokens=3).completion("m")
    assert (given.logprobs, given.echo) == (3, True)
    assert decoded(stream=True).completion("m").logprobs == 0


def test_seeds_have_no_sign() -> None:
    assert [decoded(seed=seed).completion("m").seed for seed in (5, 2**63 - 1, 2**64 - 1)] == [5, 2**63 - 1, -1]


@pytest.mark.parametrize(
    ("grammar", "asked"),
    [
        ({"type": "json", "value": SCHEMA}, (SCHEMA, None)),
        ({"type": "json", "value": '{"type":"object"}'}, ('{"type":"object"}', None)),
        ({"type": "json_object", "value": SCHEMA}, (SCHEMA, None)),
        ({"type": "json_schema", "value": {"name": "a", "schema": SCHEMA}}, (SCHEMA, None)),
        ({"type": "regex", "value": "a+"}, (None, "a+")),
    ],
)
def test_a_grammar_is_a_schema_or_a_regular_expression(grammar: dict[str, Any], asked: tuple[Any, Any]) -> None:
    completion = decoded(grammar=grammar).completion("m")
    assert (completion.guided_json, completion.guided_regex) == asked


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("best_of", 2), ("typical_p", 0.9), ("truncate", 5), ("watermark", True), ("max_new_tokens", 0),
        ("temperature", 0.0), ("top_n_tokens", 21), ("decoder_input_details", True), ("grammar", {"type": "ebnf"}),
        ("stop", "x"), ("seed", "x"), ("adapter_id", 1), ("do_sample", "x"), ("frequency_penalty", "x"), ("news", 1),
    ],
)  # fmt: skip
def test_what_is_wrong_or_cannot_be_done_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        decoded(**{name: value})
    assert caught.value.status == 400
    assert (caught.value.param or "").startswith(f"parameters.{name}")
    assert f"'parameters.{name}" in caught.value.message


def test_what_asks_for_nothing_is_taken() -> None:
    decoded(best_of=1, typical_p=1.0, truncate=None, watermark=False, adapter_id=None)


@pytest.mark.parametrize(
    ("inputs", "stream", "parameters", "param"),
    [("", False, {}, "inputs"), ("x", True, {"details": True, "decoder_input_details": True}, "decoder_input_details")],
)
def test_requests_that_contradict_themselves_are_refused(
    inputs: str, stream: bool, parameters: dict[str, Any], param: str
) -> None:
    with pytest.raises(ApiError, match=param):
        decoded(inputs, stream, **parameters)


def test_errors_have_a_kind_and_the_client_s_names() -> None:
    error = invalid("'max_tokens' is 0; it must be at least 1.", "max_tokens")
    assert json.loads(TGI.error(error, "r")) == {
        "error": "'parameters.max_new_tokens' is 0; it must be at least 1.",
        "error_type": "validation",
    }
    assert (TGI.statuses[400], TGI.done) == (422, b"")
    busy = TGI.error_event(rate_limited("full", 1.0), "r")
    assert json.loads(busy.removeprefix(b"data: ")) == {"error": "full", "error_type": "overloaded"}


def test_the_last_event_has_the_text_and_a_whole_answer_is_a_list_at_the_root() -> None:
    details = Details(finish_reason="length", generated_tokens=1, seed=None, input_length=3)
    event = json.loads(token_event(1, Token(5, "a", -0.5, False), None, "a", details).removeprefix(b"data: "))
    assert event == {
        "index": 1,
        "token": {"id": 5, "text": "a", "logprob": -0.5, "special": False},
        "generated_text": "a",
        "details": {"finish_reason": "length", "generated_tokens": 1, "seed": None, "input_length": 3},
    }
    assert json.loads(encode_generated("a", None, as_list=True)) == [{"generated_text": "a"}]
    assert json.loads(encode_generated("a", None, as_list=False)) == {"generated_text": "a"}


def test_the_limits_are_told() -> None:
    told = json.loads(encode_info("m", "0.1", 2048, 512))
    shown = {
        name: told[name] for name in ("model_id", "max_input_tokens", "max_total_tokens", "max_concurrent_requests")
    }
    assert shown == {
        "model_id": "m",
        "max_input_tokens": 2047,
        "max_total_tokens": 2048,
        "max_concurrent_requests": 512,
    }
