import random

from servery.gateway.dispatch.window import Counts, Window


def test_what_happened_is_forgotten_bucket_by_bucket() -> None:
    window = Window(10.0, buckets=10)
    window.hit(100.0)
    window.miss(100.5)
    window.miss(105.0)
    assert window.counts(105.0) == Counts(1, 2)
    assert window.counts(109.9) == Counts(1, 2)
    assert window.counts(110.0) == Counts(0, 1)
    assert window.counts(115.0) == Counts(0, 0)
    assert (Counts(1, 3).miss_rate, Counts(0, 0).miss_rate) == (0.75, 0.0)


def test_a_long_pause_and_a_clear_forget_everything() -> None:
    window = Window(10.0)
    window.hit(1.0)
    assert window.counts(1e9) == Counts()
    window.miss(1e9)
    window.clear()
    assert window.counts(1e9) == Counts()


def test_counts_are_those_of_the_last_buckets_whatever_happens() -> None:
    chance = random.Random(1)
    window, events, now = Window(8.0, buckets=4), [], 50.0
    for _ in range(2000):
        now += chance.choice((0.0, 0.1, 1.9, 2.0, 5.0, 30.0)) * chance.random()
        is_hit = chance.random() < 0.5
        (window.hit if is_hit else window.miss)(now)
        events.append((now, is_hit))
        recent = [hit for at, hit in events if int(at / 2.0) > int(now / 2.0) - 4]
        assert window.counts(now) == Counts(sum(recent), len(recent) - sum(recent))
