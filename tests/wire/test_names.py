"""Names of functions and schemas are those that OpenAI's API takes, and what it says of others is said here."""

import pytest

from servery.wire.errors import ApiError
from servery.wire.names import check_name

UNMATCHED = "string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'"
OTHERS = ("get weather", "a.b", "f\n", "wetter_für", "\u0663")


@pytest.mark.parametrize("name", ["f", "get-weather_2", "A" * 64])
def test_names_that_openai_takes_are_taken(name: str) -> None:
    check_name("tools[0].function.name", name)


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("", "empty_string", "empty string. Expected a string with minimum length 1, but got an empty string instead."),
        (
            "a" * 65,
            "string_above_max_length",
            "string too long. Expected a string with maximum length 64, but got a string with length 65 instead.",
        ),
        *((name, "invalid_value", f"{UNMATCHED}, but got '{name}'.") for name in OTHERS),
    ],
)
def test_others_are_refused_in_openais_words(name: str, code: str, told: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_name("x", name)
    error = caught.value
    assert (error.status, error.param, error.code) == (400, "x", code)
    assert error.message == f"Invalid 'x': {told}"


def test_where_an_api_has_longer_names_they_are_taken() -> None:
    check_name("tools[0].name", "a" * 128, 128)
