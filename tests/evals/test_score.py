"""What each scorer takes for right, and what not."""

from fractions import Fraction
from typing import Any

import pytest

from servery.evals.answer import Answer
from servery.evals.score import SCORERS, last_number
from servery.evals.task import Task


def is_right(scorer: str, expected: Any, text: str, **more: Any) -> bool:
    task = Task(id="t", prompt="?", scorer=scorer, expected=expected, **more)
    return SCORERS[scorer](Answer(text), task)


@pytest.mark.parametrize(
    ("scorer", "expected", "right", "wrong"),
    [
        ("exact", "Rome.", ["Rome.", " Rome.\n"], ["rome.", "Rome", "Rome. Yes."]),
        ("regex", r"^(yes|no)$", ["yes", " no "], ["yes, no", "Yes"]),
        ("regex", r"\d{3}", ["call 112 now"], ["call 11"]),
        ("contains", "Rome", ["in ROME!"], ["in Paris"]),
        ("contains", ["Rome", "Paris"], ["from paris to rome"], ["Rome"]),
        ("number", 42, ["42", "17 + 25 = 42", "It is 42.", "42.0", "042", "answer: +42"], ["-42", "42 or 43", "none", "4.2"]),
        ("number", -1234.5, ["-1,234.5", "x = -1234.5", "\u22121234.5"], ["1234.5", "-1234.50001"]),
        ("number", 0.1, ["0.1", "0.10", "1e-1"], ["0.1000001"]),
    ],
)  # fmt: skip
def test_texts(scorer: str, expected: Any, right: list[str], wrong: list[str]) -> None:
    assert [text for text in right if not is_right(scorer, expected, text)] == []
    assert [text for text in wrong if is_right(scorer, expected, text)] == []


def test_a_number_may_be_off_by_the_tolerance_and_not_by_more() -> None:
    assert [is_right("number", 3, text, tolerance=0.1) for text in ("2.9", "3.1", "2.89", "3.11")] == [
        True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7-2", "2"), ("7 -2", "-2"), ("(3)-2", "2"), ("1,234,567", "1234567"), ("1,23", "23"), ("3.50 dollars", "3.5"),
        ("2e3", "2000"), ("3 euros", "3"), ("v1.2.3", "3"), ("12%", "12"), ("99.", "99"),
    ],
)  # fmt: skip
def test_the_last_number_of_a_text(text: str, number: str) -> None:
    assert last_number(text) == Fraction(number)


@pytest.mark.parametrize(
    ("text", "expected", "right"),
    [
        ('{"b": [1, 2.0], "a": null}', {"a": None, "b": [1.0, 2]}, True),
        ('```json\n{"a": 1}\n```', {"a": 1}, True),
        ('{"a": 1} and more', {"a": 1}, False),
        ('{"a": true}', {"a": 1}, False),
        ("[2, 1]", [1, 2], False),
        ('{"a": 1, "b": 2}', {"a": 1}, False),
        ("NaN", None, False),
        ("null", None, True),
        ("[" * 100_000, [], False),
        ('"1"', 1, False),
    ],
)
def test_json_is_compared_by_value(text: str, expected: Any, right: bool) -> None:
    assert is_right("json-equal", expected, text) is right


def test_a_choice_must_be_more_likely_than_all_others() -> None:
    task = Task(id="t", prompt="?", scorer="choice", expected="b", choices=["a", "b", "c"])
    found = [
        SCORERS["choice"](Answer("", logprobs=logprobs), task)
        for logprobs in ((-2.0, -1.0, -3.0), (-1.0, -2.0, -3.0), (-1.0, -1.0, -3.0), None)
    ]
    assert found == [True, False, False, False]
