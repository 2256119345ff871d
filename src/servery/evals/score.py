"""Whether an answer is right. Each scorer is a pure function of the answer and the task; the judge has its own file."""

import json
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from servery.evals.answer import Answer
from servery.evals.task import Task

# A sign belongs to a number unless something is there to subtract from: "7-2" holds 7 and 2, not -2.
_NUMBER = re.compile(r"(?:(?<![\w)])[-+\u2212])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\w))?")
_FENCE = re.compile(r"\A```[a-zA-Z]*\n(.*)\n```\Z", re.DOTALL)


def exact(answer: Answer, task: Task) -> bool:
    """The same text, white space at both ends aside."""
    return answer.text.strip() == str(task.expected).strip()


def number(answer: Answer, task: Task) -> bool:
    """The last number in the text is the expected one, within `tolerance`; compared exactly, not as floats."""
    found = last_number(answer.text)
    if found is None:
        return False
    return abs(found - Fraction(str(task.expected))) <= Fraction(str(task.tolerance))


def last_number(text: str) -> Fraction | None:
    """The last number written in `text`: `-1,234.5`, `6e3`, `50`; None where there is none."""
    found = _NUMBER.findall(text)
    return Fraction(Decimal(found[-1].replace(",", "").replace("\u2212", "-"))) if found else None


def json_equal(answer: Answer, task: Task) -> bool:
    """The text is JSON, perhaps in a fenced block, of the same value; the order of keys does not matter."""
    text = answer.text.strip()
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return _is_same(value, task.expected)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_same(value: Any, expected: Any) -> bool:
    """Equality of JSON values: 1 and 1.0 are the same, 1 and true are not."""
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(_is_same(value[key], expected[key]) for key in expected)
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(_is_same, value, expected))
    return isinstance(value, bool) == isinstance(expected, bool) and bool(value == expected)


def regex(answer: Answer, task: Task) -> bool:
    """The pattern is found somewhere in the text; anchor it with `^` and `$` for all of it."""
    return re.search(task.expected, answer.text.strip()) is not None


def contains(answer: Answer, task: Task) -> bool:
    """Every expected text occurs, in any case."""
    parts = [task.expected] if isinstance(task.expected, str) else task.expected
    return all(part.casefold() in answer.text.casefold() for part in parts)


def choice(answer: Answer, task: Task) -> bool:
    """The expected choice is the most likely one, and no other is as likely."""
    if answer.logprobs is None:
        return False
    ranked = sorted(zip(answer.logprobs, task.choices, strict=True), reverse=True)
    return ranked[0][1] == task.expected and ranked[0][0] > ranked[1][0]


SCORERS: dict[str, Callable[[Answer, Task], bool]] = {
    "exact": exact,
    "number": number,
    "json-equal": json_equal,
    "regex": regex,
    "contains": contains,
    "choice": choice,
}
