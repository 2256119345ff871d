from servery.upstream.eviction import Holder, next_to_go


def holder(name: str, used_s: float, *, size: int = 7, asleep: bool = False, busy: bool = False) -> Holder:
    return Holder(name=name, memory_bytes=size, last_used_s=used_s, is_asleep=asleep, is_busy=busy)


def name_of(*holders: Holder) -> str | None:
    found = next_to_go(holders)
    return None if found is None else found.name


def test_the_one_that_was_used_longest_ago_goes_first() -> None:
    assert name_of(holder("a", 3.0), holder("b", 1.0), holder("c", 2.0)) == "b"


def test_one_that_sleeps_goes_before_one_that_is_awake() -> None:
    assert name_of(holder("awake", 1.0), holder("asleep", 9.0, asleep=True)) == "asleep"


def test_a_busy_one_never_goes() -> None:
    assert name_of(holder("busy", 1.0, busy=True), holder("idle", 5.0)) == "idle"
    assert name_of(holder("busy", 1.0, busy=True)) is None


def test_one_that_takes_nothing_helps_nobody() -> None:
    assert name_of(holder("gone", 1.0, size=0, asleep=True)) is None


def test_of_two_alike_always_the_same_goes() -> None:
    assert name_of(holder("b", 1.0), holder("a", 1.0)) == name_of(holder("a", 1.0), holder("b", 1.0)) == "a"
