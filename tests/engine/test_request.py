"""Sampling parameters are checked when made; every refusal names the parameter, the value and the rule."""

import math

import pytest

from servery.engine.constraint import regex
from servery.engine.errors import InvalidRequest
from servery.engine.request import SamplingParams


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1; it must be between 0 and 100."),
        ({"temperature": math.nan}, "temperature is nan; it must be between 0 and 100."),
        ({"temperature": math.inf}, "temperature is inf; it must be between 0 and 100."),
        ({"top_p": 0.0}, "top_p is 0; it must be greater than 0 and at most 1."),
        ({"n": 0}, "n is 0; it must be between 1 and 128."),
        ({"top_k": 2**31 + 1}, "top_k is 2147483649; it must be between 0 and 2147483648."),
        ({"seed": 10**400}, "seed is 10000000000000000000... (401 digits); it must be between"),
        ({"stop": ("",)}, "stop has an empty string; every stop string needs at least one character."),
        ({"stop": ("a",) * 17}, "stop has 17 strings; at most 16 are allowed."),
        ({"stop": ("b", "a" * 1001)}, "stop has a string of 1001 characters; at most 1000 are allowed."),
        ({"logit_bias": {5: 101.0}}, "logit_bias is 101; it must be between -100 and 100."),
        ({"logit_bias": {-1: 0.0}}, "logit_bias has token id -1; ids are not negative."),
        ({"min_tokens": -1}, "min_tokens is -1; it must be between 0 and 2147483648."),
    ],
)
def test_a_value_outside_its_range_is_refused_with_the_rule(params: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        SamplingParams(**params)  # type: ignore[arg-type]
    assert str(refused.value).startswith(message)
    assert [refused.value.param] == list(params)


@pytest.mark.parametrize(
    "params", [{"n": 128}, {"top_p": 1.0}, {"seed": -(2**63)}, {"seed": 2**63 - 1}, {"min_p": 0.0}]
)
def test_a_value_on_the_border_is_taken(params: dict[str, object]) -> None:
    assert SamplingParams(**params)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"min_tokens": 3, "max_tokens": 2}, "min_tokens"),
        ({"min_tokens": 1, "constraint": regex("a*")}, "min_tokens"),
        ({"allowed_token_ids": (1,), "constraint": regex("a*")}, "allowed_token_ids"),
        ({"allowed_token_ids": (1,), "min_tokens": 1}, "allowed_token_ids"),
    ],
)
def test_parameters_that_could_leave_no_token_are_refused(params: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        SamplingParams(**params)  # type: ignore[arg-type]
    assert (refused.value.param, str(refused.value).startswith(param)) == (param, True)
