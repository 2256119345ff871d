"""The comparison gives every mode the same questions, and the answers are the same."""

import pytest

from benchmarks.speculation import FORMULAIC, FREE, MODES, answer, compare, engines, questions, ratio, table, verdict
from servery import amuse
from servery.engine.core import EngineCore


@pytest.fixture(scope="module")
def cores() -> dict[str, EngineCore]:
    draft = amuse.path("draft")
    return engines(draft, draft, 4, max_drafts=4, threads=1)


def test_every_mode_answers_alike(cores: dict[str, EngineCore]) -> None:
    compared = compare(cores, questions(amuse.path("draft"), ("arithmetic", "format"), 6), batch=3, rounds=2)
    assert list(compared) == list(MODES)
    assert [measured["same_answers"] for measured in compared.values()] == [1.0, 1.0, 1.0]
    assert compared["off"]["cpu_ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert [len(measured["runs"]) for measured in compared.values()] == [2, 2, 2]
    assert table({"formulaic": {3: compared}}).row_count == 3


def test_what_a_run_took_is_counted(cores: dict[str, EngineCore]) -> None:
    prompts = questions(amuse.path("draft"), ("arithmetic",), 3)
    run, answers = answer(cores["off"], prompts, batch=3)
    assert run.tokens == sum(map(len, answers)) > 0
    assert (run.drafted, run.acceptance) == (0, None)
    assert run.figures()["mean_accepted_length"] is None
    run, answers = answer(cores["off"], prompts, batch=1)
    assert run.tokens == sum(map(len, answers[:2])), "the last one is not timed: nobody waits behind it"


def test_only_an_interval_on_one_side_of_one_tells_a_difference() -> None:
    even = [1.0] * 7
    assert ratio([1.1, 1.2, 1.3, 1.1, 0.9, 1.2, 1.2], even) == {"median": 1.2, "low": 0.9, "high": 1.3}
    assert verdict(ratio([1.1, 1.2, 1.3, 1.1, 0.9, 1.2, 1.2], even)) == "as fast"
    assert verdict(ratio([1.1, 1.2, 1.3, 1.1, 1.1, 1.2, 1.2], even)) == "faster"
    assert verdict(ratio([0.9, 0.8, 0.9, 0.7, 0.9, 0.9, 0.9], even)) == "slower"


def test_questions_take_turns_through_the_strata_and_do_not_repeat() -> None:
    asked = questions(amuse.path(), (*FORMULAIC, *FREE), 40)
    assert len(asked) == len({tuple(prompt) for prompt in asked}) == 40
    assert asked[0] != questions(amuse.path(), (*FORMULAIC, *FREE), 40, first=100)[0]
