"""A prompt goes where its beginning has been, and no deployment drowns in a popular one."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from servery.gateway.dispatch.affinity import bound, by_affinity
from servery.gateway.dispatch.load import Load
from servery.gateway.dispatch.prefixes import PrefixIndex

NAMES = ("a", "b", "c")
PREFIX = (b"1", b"12", b"123")


def loads(*in_flight: int) -> dict[str, Load]:
    return {name: Load(decoding=count) for name, count in zip(NAMES, in_flight, strict=True)}


def test_the_longest_match_is_first() -> None:
    index = PrefixIndex()
    index.add("b", PREFIX[:1])
    index.add("c", PREFIX)
    assert by_affinity(NAMES, loads(0, 0, 0), index, PREFIX)[:2] == ["c", "b"]


def test_a_busy_match_comes_after_those_with_room() -> None:
    index = PrefixIndex()
    index.add("c", PREFIX)
    assert by_affinity(NAMES, loads(2, 1, 9), index, PREFIX)[-1] == "c"


def test_an_unknown_prompt_goes_the_same_way_in_every_process() -> None:
    assert by_affinity(NAMES, loads(0, 0, 0), PrefixIndex(), PREFIX) == by_affinity(
        NAMES[::-1], loads(0, 0, 0), PrefixIndex(), PREFIX
    )


def test_a_prompt_too_short_for_a_block_goes_to_the_least_busy() -> None:
    assert by_affinity(NAMES, loads(2, 0, 1), PrefixIndex(), ()) == ["b", "c", "a"]
    assert by_affinity((), {}, PrefixIndex(), PREFIX) == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_nobody_gets_more_than_the_bound_whatever_is_asked(seed: int, prompts: int) -> None:
    draw, index = random.Random(seed), PrefixIndex()
    counts = dict.fromkeys(NAMES, 0)
    for _ in range(60):
        prefix = (bytes([draw.randrange(prompts)]),)
        most = bound(list(counts.values()))
        chosen = by_affinity(NAMES, loads(*counts.values()), index, prefix)[0]
        counts[chosen] += 1
        index.add(chosen, prefix)
        assert counts[chosen] <= most
