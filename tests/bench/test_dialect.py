"""A server's refusal of a parameter is learnt once and then spoken to."""

import pytest

from servery.bench.dialect import Dialect
from servery.bench.errors import WrongStatus

REQUEST = {"model": "m", "max_tokens": 5, "ignore_eos": True, "temperature": 0.0}


@pytest.mark.parametrize(
    ("error", "dialect"),
    [
        (WrongStatus(400, "Use max_completion_tokens.", param="max_tokens"), Dialect(("max_tokens",))),
        (WrongStatus(400, "Unrecognized request argument supplied: ignore_eos"), Dialect(("ignore_eos",))),
        (WrongStatus(422, "temperature is not supported", param="temperature"), Dialect(("temperature",))),
        (WrongStatus(400, "too long, see max_tokens", param="messages"), None),
        (WrongStatus(400, "top_p is odd", param="top_p"), None),
        (WrongStatus(429, "max_tokens per minute reached"), None),
    ],
)
def test_only_a_refused_parameter_that_was_sent_is_learnt(error: WrongStatus, dialect: Dialect | None) -> None:
    assert Dialect().learn(REQUEST, error) == dialect


def test_what_was_learnt_is_left_out_or_renamed() -> None:
    dialect = Dialect(("ignore_eos", "max_tokens"))
    assert dialect.speak(REQUEST) == {"model": "m", "max_completion_tokens": 5, "temperature": 0.0}
    assert dialect.speak({"model": "m"}) == {"model": "m"}
    assert dialect.notes == [
        "the server refuses ignore_eos; left out",
        "the server refuses max_tokens; max_completion_tokens was sent instead",
    ]


def test_a_parameter_is_not_learnt_twice() -> None:
    """Else a server that refuses everything would be asked for ever."""
    error = WrongStatus(400, "no max_tokens here, nor max_completion_tokens")
    once = Dialect().learn(REQUEST, error)
    assert once == Dialect(("max_tokens",))
    assert once.learn(REQUEST, error) is None
