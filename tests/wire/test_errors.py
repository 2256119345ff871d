import json

import pytest

from servery.wire.errors import (
    ApiError,
    context_length_exceeded,
    encode_error,
    failed,
    invalid,
    model_not_found,
    rate_limited,
    timed_out,
    unavailable,
    unsupported,
)


def test_an_error_is_encoded_in_openais_shape() -> None:
    assert json.loads(encode_error(invalid("'n' is 0.", "n"))) == {
        "error": {"message": "'n' is 0.", "type": "invalid_request_error", "param": "n", "code": "invalid_value"}
    }


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (invalid("x"), (400, "invalid_request_error", "invalid_value", [])),
        (unsupported("suffix", "no."), (400, "invalid_request_error", "unsupported_parameter", [])),
        (model_not_found("x", ["a"]), (404, "invalid_request_error", "model_not_found", [])),
        (
            rate_limited("full", 1.5),
            (429, "rate_limit_error", "rate_limit_exceeded", [("retry-after", "2"), ("retry-after-ms", "1500")]),
        ),
        (
            unavailable("down", 0.0),
            (503, "server_error", "service_unavailable", [("retry-after", "1"), ("retry-after-ms", "1")]),
        ),
        (timed_out("late"), (504, "server_error", "timeout", [("x-should-retry", "false")])),
        (failed("broken"), (500, "server_error", "internal_error", [])),
        (
            ApiError(405, "no", headers=[("allow", "GET")]),
            (405, "invalid_request_error", None, [("allow", "GET")]),
        ),
    ],
)
def test_each_error_has_its_status_kind_code_and_headers(error: ApiError, expected: tuple[object, ...]) -> None:
    assert (error.status, error.kind, error.code, error.headers) == expected


def test_a_prompt_that_is_too_long_is_told_in_openais_words() -> None:
    alone = context_length_exceeded(2048, 3000, None, "messages")
    with_completion = context_length_exceeded(2048, 2000, 100, "prompt")

    assert (alone.code, alone.param) == ("context_length_exceeded", "messages")
    assert alone.message == (
        "This model's maximum context length is 2048 tokens. However, your messages resulted in 3000 tokens. "
        "Please reduce the length of the messages."
    )
    assert with_completion.message == (
        "This model's maximum context length is 2048 tokens. However, you requested 2100 tokens "
        "(2000 in the prompt, 100 in the completion). Please reduce the length of the prompt or completion."
    )


def test_of_several_texts_the_one_that_is_too_long_is_named() -> None:
    assert context_length_exceeded(2048, 2000, 100, "prompt[3]").message == (
        "This model's maximum context length is 2048 tokens. However, you requested 2100 tokens "
        "(2000 in 'prompt[3]', 100 in the completion). Please reduce the length of 'prompt[3]' or completion."
    )
    assert "However, 'query' resulted in 3000 tokens." in context_length_exceeded(2048, 3000, None, "query").message


def test_an_unknown_model_is_told_with_those_that_are_served() -> None:
    assert model_not_found("amus", ["amuse", "other"]).message == (
        "The model 'amus' does not exist. Served here: 'amuse', 'other'. Did you mean 'amuse'?"
    )


def test_a_long_name_is_neither_repeated_nor_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for what a name of 4 MB might have meant held up all streams for a second."""
    monkeypatch.setattr("difflib.get_close_matches", None)  # would fail if it was called
    error = model_not_found("a" * 4_000_000, ["amuse"])
    assert error.message == f"The model '{'a' * 100}...' does not exist. Served here: 'amuse'."
