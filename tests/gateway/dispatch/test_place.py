import random
from collections import Counter
from typing import Any, cast

import pytest

from servery.config.types import ModelConfig, Place
from servery.gateway.dispatch.deployment import Deployment
from servery.gateway.dispatch.place import First, LeastLoad, Placement, Weighted
from servery.gateway.dispatch.placements import PLACEMENTS, Surroundings, placement
from servery.upstream.ask import Ask
from tests.gateway.scripted import Scripted, deployment

ASK = cast("Ask", None)  # none of these looks at it


def places(*names: str, **weights: float) -> list[Deployment]:
    return [
        Deployment(deployment(name, weight=weights.get(name, 1.0), max_concurrency=10), Scripted(()), lambda: 0.0)
        for name in names
    ]


def busy(place: Deployment, requests: int) -> Deployment:
    place.slots.in_flight = requests
    return place


def ranked(policy: Placement, *tiers: list[Deployment]) -> list[str]:
    return [each.name for each in policy.rank(tiers, ASK).order]


def test_first_takes_them_as_they_are_listed_and_those_without_a_place_last() -> None:
    a, b, c = places("a", "b", "c")
    assert ranked(First(), [a, b], [c]) == ["a", "b", "c"]
    busy(a, 10)
    assert ranked(First(), [a, b], [c]) == ["b", "c", "a"]


def test_weights_are_shares_and_a_weight_of_nothing_stands_by() -> None:
    policy = Weighted(random.Random(1).random)
    tier = places("a", "b", "c", a=3.0, b=1.0, c=0.0)
    drawn = Counter(tuple(ranked(policy, tier)) for _ in range(4000))
    assert set(drawn) == {("a", "b", "c"), ("b", "a", "c")}
    assert abs(drawn["a", "b", "c"] / 4000 - 0.75) < 0.03


def test_of_two_drawn_by_chance_the_less_busy_one_is_taken_by_its_weight() -> None:
    policy = LeastLoad(random.Random(1).random)
    a, b = places("a", "b", a=1.0, b=4.0)
    busy(a, 2), busy(b, 4)
    assert {tuple(ranked(policy, [a, b])) for _ in range(50)} == {("b", "a")}
    busy(b, 9)
    assert {tuple(ranked(policy, [a, b])) for _ in range(50)} == {("a", "b")}


def test_the_power_of_two_choices_keeps_deployments_even() -> None:
    policy, tier = LeastLoad(random.Random(1).random), places(*"abcdefgh")
    for each in tier:
        each.slots.resize(10**6, 0)
    for _ in range(800):
        chosen = policy.rank([tier], ASK).order[0]
        chosen.slots.in_flight += 1
    loads = [each.slots.in_flight for each in tier]
    assert max(loads) - min(loads) <= 6  # by chance alone about 40


@pytest.mark.parametrize("place", list(PLACEMENTS))
def test_a_higher_tier_is_for_what_the_lower_ones_have_no_place_for(place: Place) -> None:
    around = Surroundings(
        model=ModelConfig(name="m", tiers=(), place=place), clock=lambda: 0.0, random=random.Random(2).random
    )
    if place in (Place.FIRST, Place.WEIGHTED, Place.LEAST_LOAD):
        policy = placement(around)
        a, b, c = places("a", "b", "c")
        assert ranked(policy, [a, b], [c])[2] == "c"
        busy(a, 10), busy(b, 10)
        assert ranked(policy, [a, b], [c])[0] == "c"


def test_a_placement_that_is_not_there_is_named() -> None:
    class Elsewhere:
        value = "by-moonlight"

    model: Any = ModelConfig(name="m", tiers=(), place=cast("Place", Elsewhere()))
    with pytest.raises(ValueError, match="model 'm': there is no placement 'by-moonlight', only first, weighted"):
        placement(Surroundings(model=model, clock=lambda: 0.0, random=lambda: 0.0))
