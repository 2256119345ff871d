"""Arrivals come at the rate and with the burstiness asked for, the same for the same seed."""

import random
import statistics

import pytest

from servery.bench.arrivals import Arrivals


def gaps(form: str, rate: float, count: int = 20_000) -> list[float]:
    times = Arrivals.parse(form, rate).offsets(count, random.Random(7))
    return [late - early for early, late in zip([0.0, *times], times, strict=False)]


@pytest.mark.parametrize(("form", "cv"), [("poisson", 1.0), ("constant", 0.0), ("gamma:3", 3.0), ("gamma:0.5", 0.5)])
def test_gaps_have_the_mean_and_the_variation_asked_for(form: str, cv: float) -> None:
    found = gaps(form, 4.0)
    assert statistics.mean(found) == pytest.approx(0.25, rel=0.06)
    assert statistics.pstdev(found) / statistics.mean(found) == pytest.approx(cv, rel=0.06, abs=1e-9)
    assert min(found) >= 0


def test_the_gaps_of_a_poisson_process_are_exponential() -> None:
    """A share of 1 - 1/e is below the mean."""
    found = gaps("poisson", 10.0)
    assert sum(gap < 0.1 for gap in found) / len(found) == pytest.approx(0.632, abs=0.01)


def test_the_seed_decides_the_times() -> None:
    form = Arrivals.parse("gamma:2", 5)
    one, same, other = (form.offsets(10, random.Random(seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert one == sorted(one)


@pytest.mark.parametrize("text", ["", "uniform", "gamma", "gamma:", "gamma:0", "gamma:-1", "gamma:nan", "poisson:2"])
def test_other_forms_are_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(ValueError, match="poisson, constant, gamma:CV"):
        Arrivals.parse(text, 1.0)
