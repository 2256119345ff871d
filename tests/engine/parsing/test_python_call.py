"""Calls in Python's notation: its literals and JSON's, and names that are no identifiers."""

import json

import pytest

from servery.engine.parsing.piece import Arguments, CallStart
from servery.engine.parsing.python_call import PythonCalls


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("a=1, b='x', c=None, d=[True, {'e': 2.5}]", {"a": 1, "b": "x", "c": None, "d": [True, {"e": 2.5}]}),
        ('a=null, b={"c": [true, false]}', {"a": None, "b": {"c": [True, False]}}),
        ("from='Paris', is-short=True, größe=1,", {"from": "Paris", "is-short": True, "größe": 1}),
        ("a=\"1, 2) = [\", b='it\\'s'", {"a": "1, 2) = [", "b": "it's"}),
        (r'a="\n\"\\ é"', {"a": '\n"\\ é'}),
        ("a=(1, 2)", {"a": [1, 2]}),
        (" a = 1 ,\n b = 2 ", {"a": 1, "b": 2}),
        ("", {}),
    ],
)
def test_arguments_are_read_as_json(text: str, arguments: object) -> None:
    pieces, rest = PythonCalls(None).feed(f"[f({text})]!")
    assert rest == "!"
    start, given = pieces
    assert start == CallStart("f")
    assert isinstance(given, Arguments)
    assert json.loads(given.text) == arguments


def test_a_number_that_python_cannot_hold_stays_as_it_is_written() -> None:
    pieces, _ = PythonCalls(None).feed("[f(a=1e999)]")
    assert pieces[1] == Arguments('{"a": 1e999}')
