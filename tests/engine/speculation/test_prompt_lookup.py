"""Lookup finds what a search through the whole text would find, at the same cost for every token."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.engine.request import NewRequest, Sequence
from servery.engine.speculation import prompt_lookup
from servery.engine.speculation.prompt_lookup import SIZES, PromptLookup, SuffixIndex


def search(tokens: list[int]) -> tuple[int, int] | None:
    """The reference: where the longest suffix stood before, by going through the text from its end."""
    found, agreed = None, 1
    for end in range(len(tokens) - 1, 1, -1):
        same = next((n for n in range(SIZES[0]) if n >= end or tokens[end - 1 - n] != tokens[-1 - n]), SIZES[0])
        if same > agreed:
            found, agreed = (end, same), same
    return found


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 20), st.integers(0, 99))
def test_matches_are_those_of_a_search_however_the_text_grows(tokens, first, seed):
    chance, index, length = Random(seed), SuffixIndex(), min(first, len(tokens))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_lookup, "MOST_COMPARED", 100)
        _compare(index, tokens, length, chance)


def _compare(index: SuffixIndex, tokens: list[int], length: int, chance: Random) -> None:
    while True:
        assert index.match(tokens[:length]) == search(tokens[:length])
        if length == len(tokens):
            return
        length = min(length + chance.randint(1, 5), len(tokens))


def sequence(tokens: list[int]) -> Sequence:
    return Sequence(NewRequest(request_id="a", prompt=tokens), 0, 0, 0.0)


def test_what_followed_the_longest_suffix_is_offered():
    one = sequence([1, 2, 3, 7, 8, 9, 5, 2, 3, 6, 6, 1, 2, 3])
    assert PromptLookup().offer(one, 3) == ([7, 8, 9], SIZES.index(3), 0), "not the 6 after the later 2, 3"


def test_a_text_that_repeats_itself_is_continued_round_and_round():
    offer = PromptLookup().offer(sequence([4, 1, 2, 1, 2]), 5)
    assert offer is not None
    assert offer.tokens == [1, 2, 1, 2, 1]


def test_a_new_text_has_no_offer():
    lookup = PromptLookup()
    assert lookup.offer(sequence([1, 2, 3, 4]), 4) is None
    assert lookup.offer(sequence([1]), 4) is None


def test_a_look_compares_the_latest_occurrences_only():
    """The pair stood 1,000 times; the longest match is the oldest, and too far away to be found."""
    tokens = [5, 6, 1, 2, 9] + [3, 1, 2, 4] * 1000 + [5, 6, 1, 2]
    assert SuffixIndex().match(tokens) == (len(tokens) - 5, 2)


def test_each_token_is_indexed_once():
    index, tokens = SuffixIndex(), list(range(1000))
    index.match(tokens)
    for number in range(1000):
        tokens.append(5000 + number)
        index.match(tokens)
    assert len(index._before) == len(tokens)
    assert len(index._latest) == len(tokens) - 2, "all pairs but the newest"
