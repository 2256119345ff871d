"""Lookup finds what a search through the whole text would find, at the same cost for every token."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from servery.engine.request import NewRequest, Sequence
from servery.engine.speculation import prompt_lookup
from servery.engine.speculation.prompt_lookup import SIZES, PromptLookup, SuffixIndex


def search(tokens: list[int]) -> tuple[int, int] | None:
    """The reference: where the longest known suffix stood last before, by going through the text."""
    for kind, size in enumerate(SIZES):
        for end in range(len(tokens) - 1, size - 1, -1):
            if tokens[end - size : end] == tokens[-size:] and len(tokens) >= size:
                return end, kind
    return None


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 20), st.integers(0, 99))
def test_matches_are_those_of_a_search_however_the_text_grows(tokens, first, seed):
    chance, index, length = Random(seed), SuffixIndex(), min(first, len(tokens))
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


def test_a_look_goes_through_new_tokens_only(monkeypatch):
    """2,000 tokens, each indexed once for each size, whatever the length of the text."""
    made: list[int] = []
    monkeypatch.setattr(prompt_lookup, "tuple", lambda tokens: made.append(1) or tuple(tokens), raising=False)
    index, tokens = SuffixIndex(), list(range(1000))
    index.match(tokens)
    before = len(made)
    for number in range(1000):
        tokens.append(5000 + number)
        index.match(tokens)
    assert len(made) - before == 1000 * 2 * len(SIZES), "one to index and one to look up"
