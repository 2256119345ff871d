"""Claims are held to their figures as they say, and the lists are whole."""

from pathlib import Path

import pytest

from benchmarks.claims.claim import SHORT, TITLES, Claim, Reading, Verdict, stated
from benchmarks.claims.measurements import MEASUREMENTS

CLAIM = Claim(key="k", says="It is 2 to 3 times", texts=("serving",), measured="m", at_least=2.0, at_most=3.0)
LIST = """
title = "Topic"

[[claim]]
key = "same"
says = "It is so"
texts = ["{text}"]
{field}
"""


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([2.0, 3.0], Verdict.CONFIRMED),
        ([1.9, 2.5], Verdict.PARTLY),
        ([1.9, 3.1], Verdict.NOT_CONFIRMED),
    ],
)
def test_all_figures_confirm_and_some_do_in_part(values: list[float], verdict: Verdict) -> None:
    assert CLAIM.verdict([Reading("of", value) for value in values]) is verdict


def test_a_claim_without_a_figure_is_only_measured() -> None:
    claim = Claim(key="k", says="It matters", texts=("serving",), measured="m")
    assert claim.verdict([Reading("of", 5.0)]) is Verdict.SHOWN


def test_a_claim_that_cannot_be_measured_says_why_and_needs_no_figure() -> None:
    claim = Claim(key="k", says="It flies", texts=("serving",), reason="needs wings")
    assert claim.verdict([]) is Verdict.NOT_HERE


def test_a_measured_claim_without_a_figure_is_an_error() -> None:
    with pytest.raises(ValueError, match="claim k: the measurement m gave no figure for it"):
        CLAIM.verdict([])


def test_every_claim_is_measured_by_what_there_is_or_says_why_not() -> None:
    claims = [claim for topic in stated() for claim in topic.claims]
    assert {claim.measured for claim in claims if claim.measured} == set(MEASUREMENTS)
    assert {text for claim in claims for text in claim.texts} == set(TITLES) == set(SHORT)


@pytest.mark.parametrize(
    ("text", "field", "told"),
    [
        ("nobody", 'reason = "none"', r"claim same: texts are \['nobody'\]; known are serving, "),
        ("serving", "", "claim same: give either `measured`, or the `reason` why it is not"),
        ("serving", 'reason = "none"', "claims are named twice: same"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path, text: str, field: str, told: str) -> None:
    for name in ("1.toml", "2.toml"):
        (tmp_path / name).write_text(LIST.format(text=text, field=field))
    with pytest.raises(ValueError, match=told):
        stated(tmp_path)
