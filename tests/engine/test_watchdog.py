"""What is a hang and what is work, and how soon the difference is seen. Time, beats and vitals are made up."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from servery.engine.pulse import PATIENCE, READING_S, SILENCE_S, UNKNOWN_STEP_S, Beat
from servery.engine.vitals import Vitals
from servery.engine.watchdog import LONGEST_SILENCE_S, LOOK_S, Watchdog

BORN_S = 1000.0
LIVENESS_S = 5.0

Clock = Iterator[float]
VitalsAt = Callable[[float], Vitals | None]


def still(age_s: float) -> Vitals:
    return Vitals(7.0, 3, waits_for_disk=False)


def computing(age_s: float) -> Vitals:
    return Vitals(7.0 + age_s, 3, waits_for_disk=False)


def every(period_s: float) -> Clock:
    return itertools.count(BORN_S, period_s)


def noticed_after_s(beat: Beat, vitals: VitalsAt, looks: Clock | None = None, limit_s: float = 2_000.0) -> float | None:
    """The age of the newest beat when it is called a hang; None if that does not happen within the limit."""
    watchdog = Watchdog()
    for now in looks or every(LOOK_S):
        if watchdog.look(now, beat, vitals(now - beat.at_s)) is not None:
            return now - beat.at_s
        if now - BORN_S > limit_s:
            return None
    raise AssertionError("the clock has stopped")


@pytest.mark.parametrize("vitals", [still, computing, lambda age_s: None], ids=["still", "spinning", "unknown"])
def test_a_loop_that_stops_going_round_is_noticed_within_five_seconds(vitals: VitalsAt) -> None:
    noticed_s = noticed_after_s(Beat(BORN_S), vitals)
    assert noticed_s is not None
    assert SILENCE_S <= noticed_s < LIVENESS_S


@pytest.mark.parametrize("period_s", [0.05, 0.25, 0.5])
def test_nor_does_it_take_longer_when_looks_are_irregular(period_s: float) -> None:
    noticed_s = noticed_after_s(Beat(BORN_S), still, every(period_s))
    assert noticed_s is not None
    assert SILENCE_S <= noticed_s < LIVENESS_S


@pytest.mark.parametrize("allowed_s", [PATIENCE * 2.5, UNKNOWN_STEP_S], ids=["a long step", "the first step"])
def test_a_step_that_computes_may_take_as_long_as_it_should(allowed_s: float) -> None:
    assert noticed_after_s(Beat(BORN_S, allowed_s=allowed_s), computing) == allowed_s


def test_a_long_step_that_does_not_compute_is_no_long_step() -> None:
    assert noticed_after_s(Beat(BORN_S, allowed_s=UNKNOWN_STEP_S), still) == SILENCE_S


def test_a_share_of_a_busy_machine_is_enough_to_compute() -> None:
    """Eight others on two cores leave a quarter of one; threads that wake now and then take far less than 2 %."""
    beat = Beat(BORN_S, allowed_s=UNKNOWN_STEP_S)
    assert noticed_after_s(beat, lambda age_s: computing(0.05 * age_s)) == UNKNOWN_STEP_S
    assert noticed_after_s(beat, lambda age_s: computing(0.01 * age_s)) == SILENCE_S


def test_reading_files_needs_no_processor() -> None:
    assert noticed_after_s(Beat(BORN_S, allowed_s=READING_S, still_s=READING_S), still) == READING_S


@pytest.mark.parametrize(
    "fetching",
    [
        lambda age_s: Vitals(7.0, 3, waits_for_disk=True),
        lambda age_s: Vitals(7.0, 3 + int(10 * age_s), waits_for_disk=False),
    ],
    ids=["waits for a disk", "fetches pages"],
)
def test_a_model_that_is_swapped_in_is_waited_for_but_not_for_ever(fetching: VitalsAt) -> None:
    assert noticed_after_s(Beat(BORN_S), fetching) == LONGEST_SILENCE_S


def test_a_machine_that_was_suspended_is_no_hang() -> None:
    """The watcher itself was not there either: what it has not seen it does not count."""
    looks = [BORN_S, BORN_S + 0.25, BORN_S + 3_600.0]
    watchdog = Watchdog()
    assert [watchdog.look(now, Beat(BORN_S), still(now)) for now in looks] == [None] * 3


def test_every_beat_begins_anew() -> None:
    watchdog = Watchdog()
    ages = [now / 4 for now in range(400)]
    beats = [Beat(BORN_S + 3 * (age // 3)) for age in ages]
    found = {watchdog.look(BORN_S + age, beat, still(age)) for age, beat in zip(ages, beats, strict=True)}
    assert found == {None}


def test_the_reason_says_how_long_and_what_was_seen() -> None:
    def reason(vitals: VitalsAt) -> str:
        watchdog = Watchdog()
        looks = (watchdog.look(now, Beat(BORN_S), vitals(now - BORN_S)) for now in every(LOOK_S))
        return next(found for found in looks if found is not None)

    assert reason(still) == "its loop gave no sign of life for 4.0 s and its process does nothing"
    assert reason(computing) == "its loop gave no sign of life for 4.0 s, which is longer than what it does may take"
