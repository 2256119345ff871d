"""What an answer must look like, as a value."""

import msgspec
import pytest

from servery.engine import constraint
from servery.engine.constraint import Constraint, ConstraintKind, Reasoning
from servery.engine.errors import InvalidRequest
from servery.engine.request import SamplingParams


def test_a_constraint_is_a_key_and_crosses_the_process_border() -> None:
    params = SamplingParams(constraint=constraint.choice(["yes", "no"], reasoning=Reasoning(end="</think>", budget=5)))
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams)
    assert decoded == params
    assert len({decoded.constraint, params.constraint}) == 1


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    text = '{"type":"object","properties":{"b":{},"a":{}}}'
    assert constraint.json_schema(schema) == Constraint(kind=ConstraintKind.JSON_SCHEMA, text=text)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: constraint.choice([]), "it has no options; at least one is needed."),
        (lambda: constraint.choice(["a", ""]), "it has an empty option; every option needs at least one character."),
        (lambda: constraint.choice(["a"] * 4097), "it has 4097 options; at most 4096 are allowed."),
        (lambda: constraint.regex("a" * 8193), "it has 8193 characters; at most 8192 are allowed."),
        (lambda: constraint.grammar("a" * 262_145), "it has 262145 bytes; at most 262144 are allowed."),
        (
            lambda: constraint.regex("a", Reasoning(end="x" * 257)),
            "it has a marker of 257 characters; at most 256 are allowed.",
        ),
        (lambda: Reasoning(begin="<a>", end=""), "the reasoning before it has no end marker."),
        (
            lambda: Reasoning(end="</a>", budget=0),
            "the budget of reasoning is 0 tokens; it must be between 1 and 2147483648.",
        ),
    ],
)
def test_what_is_too_large_is_refused_with_its_size(make, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert (str(caught.value), caught.value.param) == (f"constraint cannot be enforced: {reason}", "constraint")


def test_a_schema_nested_without_end_is_refused() -> None:
    schema: dict = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(InvalidRequest, match="it is nested too deeply"):
        constraint.json_schema(schema)
