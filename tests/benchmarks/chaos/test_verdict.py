"""The judgement finds every way in which client and ledger can differ, and lets pass what is right."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.chaos.client import Heard, Temper
from benchmarks.chaos.faulty import TEXT
from benchmarks.chaos.load import Batch, Seen
from benchmarks.chaos.questions import PROMPTS, Question
from benchmarks.chaos.reading import Told
from benchmarks.chaos.verdict import Held, judge, leaks
from servery.telemetry.ledger.row import LedgerRow
from tests.telemetry.ledger import rows

QUESTION = Question("chat", "chat", PROMPTS[0], "greedy", is_stream=True)
ROW = rows.ROW._replace(
    model="chat", served_model="chat", prompt_tokens=3, generated_tokens=2, extra_tokens=0, attempts=1, status=200
)


def seen(name: str = "r1", told: Told | None = None, question: Question = QUESTION, **heard: Any) -> Seen:
    fields: dict[str, Any] = {"status": 200, "is_complete": True, "headers": {"x-servery-attempts": "1"}}
    told = told or Told("Salt.", is_ended=True, usage=(3, 2))
    return Seen(name, question, Temper.PATIENT, Heard(**{**fields, **heard}), told)


def row(name: str = "r1", **fields: Any) -> LedgerRow:
    return ROW._replace(id=f"a{name}", request_id=name, **fields)


LEFT = {"has_left": True, "is_complete": False}
RIGHT: list[tuple[Seen, list[LedgerRow]]] = [
    (seen(), [row()]),
    (seen(told=Told(error="busy"), status=429), [row(outcome="refused", status=429)]),
    (seen(told=Told("Sa", error="cut")), [row(outcome="failed", status=502, error="cut")]),
    (seen(told=Told("Sa", error="cut"), lost="closed"), [row(outcome="failed", status=502, error="cut")]),
    (seen(told=Told(error="busy"), lost="closed"), [row(outcome="refused", status=429, error="overloaded")]),
    (seen(told=Told("Sa"), **LEFT), [row(outcome="client_gone", status=499)]),
    (seen(told=Told("Salt."), **LEFT), [row()]),
    (seen(told=Told(), **LEFT | {"status": None}), []),
]
WRONG: list[tuple[Seen, list[LedgerRow], str]] = [
    (seen(), [], "0 rows"),
    (seen(), [row(), row()], "2 rows"),
    (seen(), [row(outcome="failed")], "whole for the client"),
    (seen(), [row(outcome="never")], "outcome never"),
    (seen(), [row(generated_tokens=1)], "usage (3, 2)"),
    (seen(told=Told("Sa", error="cut")), [row()], "in-band error cut"),
    (seen(told=Told("Sa")), [row()], "ended False, error None"),
    (seen(told=Told("Sa", is_ended=True, error="cut")), [row()], "ended True, error cut"),
    (seen(told=Told(error="busy"), status=429), [row(outcome="refused", status=503)], "status 429"),
    (seen(told=Told(), status=500), [row(outcome="failed", status=500)], "an error without a code"),
    (seen(told=Told(), lost="reset"), [row(outcome="failed")], "reset"),
    (seen(told=Told("Sa"), **LEFT), [row(outcome="refused", error=None)], "its client left"),
]


@pytest.mark.parametrize(("one", "rows"), RIGHT)
def test_what_agrees_passes(one: Seen, rows: list[LedgerRow]) -> None:
    assert judge([one], [], rows).violations == []


@pytest.mark.parametrize(("one", "rows", "said"), WRONG)
def test_what_differs_is_told(one: Seen, rows: list[LedgerRow], said: str) -> None:
    assert said in judge([one], [], rows).violations[0]


def test_a_text_that_is_another_or_no_beginning_is_found_wherever_it_came_from() -> None:
    whole = seen()
    cut = seen("r2", Told("Sand", error="cut"))
    other = seen("r3", Told("Sand.", is_ended=True, usage=(3, 2)))
    begun = seen("r4", Told("Sal", error="cut"))
    rows = [row(), row("r2", outcome="failed"), row("r3", attempts=2), row("r4", outcome="failed")]
    verdict = judge([whole, cut, other, begun], [], rows)
    assert ["another text: from character 2 of" in each for each in verdict.violations] == [True, True]
    assert [each.partition(" ")[0] for each in verdict.violations] == ["r2", "r3"]
    assert verdict.counts["texts compared"] == 4


def test_the_faulty_api_may_say_its_own_text_or_that_of_its_stand_in() -> None:
    asked = replace(QUESTION, model="api")
    whole, own, elsewhere, wrong = (
        seen(), seen("r2", Told(TEXT, is_ended=True), asked), seen("r3", Told("Salt.", is_ended=True), asked),
        seen("r4", Told("Sugar.", is_ended=True), asked),
    )  # fmt: skip
    violations = judge([whole, own, elsewhere, wrong], [], [row(), row("r2"), row("r3"), row("r4")]).violations
    assert [each.partition(" ")[0] for each in violations] == ["r4"]


def test_a_batch_is_complete_and_each_of_its_lines_has_its_row() -> None:
    answers: dict[str, Any] = {"0/0": ("b1", "Salt.", (3, 2)), "0/1": ("b2", "Sand.", (3, 1))}
    rows = [row(), row("b1", outcome="refused", status=503), row("b1"), row("b2")]
    verdict = judge([seen()], [Batch("completed", 3, answers, {})], rows)
    assert [each[:32] for each in verdict.violations] == [
        "a batch ended as completed with ", "line 0/1 of a batch: usage (3, 1", "line 0/1 of a batch: another tex",
    ]  # fmt: skip


def test_a_row_of_an_answer_that_nobody_asked_for_is_found() -> None:
    assert judge([], [], [row()]).violations == [
        "row ar1 (chat) is of an exchange that nobody had: completed 200 None at d, 1 attempts, 3+2 tokens"
    ]


def test_what_is_held_beyond_what_is_allowed_is_a_leak() -> None:
    before, allowed = Held({"socket": 3, "file": 1}, 4, 5), Held({"socket": 2}, 1, 0)
    assert leaks(before, Held({"socket": 5, "file": 1}, 5, 5), allowed) == []
    assert leaks(before, Held({"socket": 6, "file": 2}, 6, 6), allowed) == [
        "socket descriptors: 3 before, 6 after", "file descriptors: 1 before, 2 after", "threads: 4 before, 6 after",
        "tasks: 5 before, 6 after",
    ]  # fmt: skip
