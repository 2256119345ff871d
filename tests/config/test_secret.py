"""A secret shows its value to nobody but who asks for it."""

import copy
import pickle

import pytest

from servery.config.secret import Secret

CANARY = "sk-canary-4711"


def test_no_way_of_printing_it_shows_the_value() -> None:
    secret = Secret(CANARY)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>20}", "%s" % secret, repr({"api_key": secret})]  # noqa: UP031
    assert not any(CANARY in text for text in shown)
    assert secret.reveal() == CANARY


def test_secrets_are_equal_if_their_values_are() -> None:
    assert Secret(CANARY) == Secret(CANARY)
    assert len({Secret(CANARY), Secret(CANARY), Secret("other")}) == 2
    assert Secret(CANARY) != CANARY


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy])
def test_it_cannot_be_written_out(copied: object) -> None:
    with pytest.raises(TypeError, match="in the clear"):
        copied(Secret(CANARY))  # type: ignore[operator]
