"""Capacity that is paid for is filled first; the next tier takes what would break the SLO; if none can, policy decides."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.config.types import Overload, Slo
from servery.gateway.dispatch.cheapest import Decision, Option, cheapest_within_slo, keeps
from servery.gateway.dispatch.prediction import Prediction

SLO = Slo(ttft_s=1.0, tpot_s=0.05)


def option(
    name: str,
    *,
    tier: int = 0,
    ttft_s: float = 0.1,
    tpot_s: float = 0.01,
    cost: int = 0,
    has_place: bool = True,
    is_idle: bool = False,
    doublings: int = 0,
    is_due: bool = False,
) -> Option:
    prediction = Prediction(ttft_s=ttft_s, tpot_s=tpot_s, ttft_upper_s=2 * ttft_s, tpot_upper_s=2 * tpot_s)
    late_s = max(2 * ttft_s - SLO.ttft_s, 0.0)
    return Option(
        name=name, tier=tier, has_place=has_place, prediction=prediction, cost=cost, is_idle=is_idle, clears_s=late_s,
        doublings=doublings, is_due=is_due,
    )  # fmt: skip


def test_capacity_that_is_paid_for_goes_before_what_is_paid_by_token() -> None:
    options = [option("api", tier=1, cost=300, ttft_s=0.05), option("gpu", ttft_s=0.3)]
    assert cheapest_within_slo(options, SLO, Overload.SHED) == Decision(ranked=("gpu", "api"))


def test_it_overflows_before_the_slo_breaks() -> None:
    options = [option("gpu", ttft_s=0.6), option("api", tier=1, cost=300)]
    assert cheapest_within_slo(options, SLO, Overload.SHED).ranked == ("api", "gpu")
    slow_tokens = [option("gpu", tpot_s=0.03), option("api", tier=1, cost=300)]
    assert cheapest_within_slo(slow_tokens, SLO, Overload.SHED).ranked == ("api", "gpu")
    full = [option("gpu", has_place=False), option("api", tier=1, cost=300)]
    assert cheapest_within_slo(full, SLO, Overload.SHED).ranked == ("api", "gpu")


def test_what_was_never_seen_to_bear_such_a_load_comes_behind_what_was() -> None:
    options = [option("gpu", doublings=1), option("api", tier=1, cost=300)]
    assert cheapest_within_slo(options, SLO, Overload.SHED).ranked == ("api", "gpu")
    both = [option("a", doublings=2), option("b", doublings=1)]
    assert cheapest_within_slo(both, SLO, Overload.SHED) == Decision(ranked=("b", "a"))
    alone = [option("gpu", doublings=3)]
    assert cheapest_within_slo(alone, SLO, Overload.SHED) == Decision(ranked=("gpu",))


def test_what_is_cheaper_is_tried_when_that_is_due() -> None:
    slow = {"ttft_s": 3.0, "is_due": True}
    api = option("api", tier=1, cost=300)
    assert cheapest_within_slo([option("gpu", **slow), api], SLO, Overload.SHED) == Decision(ranked=("gpu", "api"))
    for untried in ({"is_due": False}, {"has_place": False}, {"cost": 300}):
        decision = cheapest_within_slo([option("gpu", **(slow | untried)), api], SLO, Overload.SHED)  # type: ignore[arg-type]
        assert decision.ranked == ("api", "gpu"), untried


def test_among_equal_costs_the_fastest_is_first() -> None:
    options = [option("a", ttft_s=0.3), option("b", ttft_s=0.2), option("c", ttft_s=0.4)]
    assert cheapest_within_slo(options, SLO, Overload.SHED).ranked == ("b", "a", "c")


@pytest.mark.parametrize(
    ("overload", "decision"),
    [
        (Overload.BEST_EFFORT, Decision(ranked=("b", "a"), is_within_slo=False)),
        (Overload.QUEUE, Decision(ranked=("b", "a"), wait_s=0.6, is_within_slo=False)),
        (Overload.SHED, Decision(ranked=("b", "a"), shed_s=0.6, is_within_slo=False)),
    ],
)
def test_when_none_can_policy_decides(overload: Overload, decision: Decision) -> None:
    assert cheapest_within_slo([option("a", ttft_s=0.9), option("b", ttft_s=0.8)], SLO, overload) == Decision(
        ranked=decision.ranked,
        wait_s=pytest.approx(decision.wait_s),
        shed_s=pytest.approx(decision.shed_s),
        is_within_slo=decision.is_within_slo,
    )


@pytest.mark.parametrize("overload", list(Overload))
def test_an_idle_one_is_tried_rather_than_that_a_request_waits_or_goes(overload: Overload) -> None:
    options = [
        option("busy", ttft_s=0.8),
        option("idle", ttft_s=0.9, is_idle=True),
        option("b", ttft_s=1.0, is_idle=True),
    ]
    decision = cheapest_within_slo(options, SLO, overload)
    first = ("busy", "idle", "b") if overload is Overload.BEST_EFFORT else ("idle", "busy", "b")
    assert decision == Decision(ranked=first, is_within_slo=False)
    full = [option("idle", is_idle=True, has_place=False)]
    assert cheapest_within_slo(full, SLO, Overload.SHED).shed_s == 0.01


def test_where_nothing_is_left_nothing_is_ranked() -> None:
    assert cheapest_within_slo([], SLO, Overload.QUEUE) == Decision()


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0.001, 2), st.floats(0.001, 0.1), st.integers(0, 3), st.booleans()),
        min_size=1,
        max_size=6,
    )
)
def test_the_first_is_never_dearer_than_another_that_keeps_the_slo(
    drawn: list[tuple[int, float, float, int, bool]],
) -> None:
    options = [
        option(str(at), tier=tier, ttft_s=ttft, tpot_s=tpot, cost=cost, has_place=place)
        for at, (tier, ttft, tpot, cost, place) in enumerate(drawn)
    ]
    decision = cheapest_within_slo(options, SLO, Overload.BEST_EFFORT)
    assert sorted(decision.ranked) == sorted(each.name for each in options)
    keeping = [each for each in options if each.has_place and keeps(each.prediction, SLO)]
    assert decision.is_within_slo == bool(keeping)
    if keeping:
        first = options[int(decision.ranked[0])]
        assert first in keeping
        assert first.cost == min(each.cost for each in keeping)


def test_every_order_of_the_options_gives_the_same_decision() -> None:
    options = [option("a", cost=2), option("b", cost=1, ttft_s=0.7), option("c", tier=1, cost=1)]
    decisions = {cheapest_within_slo(each, SLO, Overload.SHED) for each in itertools.permutations(options)}
    assert len(decisions) == 1
