import random

from benchmarks.gateway.soak import slope

HOURS = [at / 60 for at in range(60)]


def test_what_grows_is_found_with_its_rate() -> None:
    chance = random.Random(1)
    found = slope(HOURS, [60 + 5 * hour + chance.gauss(0, 0.2) for hour in HOURS])
    assert abs(found.mb_per_hour - 5) < found.half_width < 1
    assert not found.is_zero


def test_noise_is_no_growth_and_neighbours_that_are_alike_make_it_less_sure() -> None:
    chance = random.Random(2)
    apart = [chance.gauss(0, 1) for _ in HOURS]
    alike = [sum(apart[max(0, at - 9) : at + 1]) for at in range(len(apart))]
    assert slope(HOURS, apart).is_zero
    wide, narrow = slope(HOURS, alike), slope(HOURS, apart)
    assert wide.half_width > 3 * narrow.half_width


def test_what_stays_the_same_has_no_slope() -> None:
    assert slope(HOURS, [60.0] * 60) == (found := slope(HOURS, [60.0] * 60))
    assert (found.mb_per_hour, found.half_width) == (0.0, 0.0)
