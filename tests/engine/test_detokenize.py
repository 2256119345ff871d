"""Streams of tokens give the text of all tokens; stop strings are found wherever tokens begin and end."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.engine.detokenize import Detokenizer, Released, StopMatcher
from servery.engine.tokenizer import Tokenizer
from tests.engine import vocabularies


@functools.cache
def tokenizer(kind: str) -> Tokenizer:
    return Tokenizer(vocabularies.KINDS[kind]())


def stream(kind: str, token_ids: list[int], prompt: list[int] = [], skip: bool = True) -> list[str]:  # noqa: B006
    detokenizer = Detokenizer(tokenizer(kind), prompt, skip)
    return [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.finish()]


kinds = st.sampled_from(sorted(vocabularies.KINDS))
# Above the vocabulary too: models pad theirs, and an untrained one can choose such an id.
some_ids = st.lists(st.integers(0, 400), max_size=30)


# ---------------------------------------------------------------- detokenizer


@given(kinds, some_ids, st.booleans())
@settings(deadline=None)
def test_the_pieces_add_up_to_the_whole_text(kind, token_ids, skip):
    assert "".join(stream(kind, token_ids, skip=skip)) == tokenizer(kind).decode(token_ids, skip)


@given(kinds, some_ids, st.booleans())
@settings(deadline=None)
def test_decoding_agrees_with_tokenizers(kind, token_ids, skip):
    """But for wrong byte runs of a byte-fallback vocabulary, where ours keeps the characters that are right."""
    theirs = tokenizer(kind).backend.decode(token_ids, skip_special_tokens=skip)
    if kind != "byte_fallback" or "\ufffd" not in theirs:
        assert tokenizer(kind).decode(token_ids, skip) == theirs


@given(kinds, st.text(alphabet=st.characters(codec="utf-8"), max_size=30))
@settings(deadline=None)
def test_text_survives_encoding_and_streaming(kind, text):
    token_ids = tokenizer(kind).encode(text, add_special_tokens=False)
    is_lossless = kind == "byte_level" or (kind == "byte_fallback" and "▁" not in text and "<" not in text)
    if is_lossless:
        assert "".join(stream(kind, token_ids, skip=False)) == text


@given(kinds, some_ids, some_ids)
@settings(deadline=None)
def test_a_completion_continues_its_prompt(kind, prompt, token_ids):
    whole, before = tokenizer(kind).decode(prompt + token_ids), tokenizer(kind).decode(prompt)
    if not before.endswith("\ufffd"):
        assert before + "".join(stream(kind, token_ids, prompt)) == whole


def test_a_character_left_unfinished_by_the_prompt_is_finished_by_the_completion():
    smile = tokenizer("byte_fallback").encode("\U0001f680", add_special_tokens=False)[-4:]
    for cut in range(1, 4):
        assert "".join(stream("byte_fallback", smile[cut:], smile[:cut])) == "\U0001f680"


def test_an_unfinished_character_is_held_and_comes_out_whole():
    assert stream("byte_fallback", byte_ids("\U0001f680".encode())) == ["", "", "", "\U0001f680", ""]


def test_a_broken_character_comes_out_as_soon_as_it_is_certain():
    assert stream("byte_fallback", byte_ids(b"\xe4\xbd\x41\xff\xe4")) == ["", "", "\ufffdA", "\ufffd", "", "\ufffd"]


def test_an_endless_run_of_broken_bytes_is_not_held():
    pieces = stream("byte_fallback", byte_ids(b"\xe4" * 50))
    assert pieces == ["", *["\ufffd"] * 50]


def test_the_first_space_is_the_tokenizers_own_only_at_the_start_of_a_text():
    llama2 = tokenizer("byte_fallback")
    word = llama2.encode("is", add_special_tokens=False)
    assert llama2.token_bytes(word[0]).startswith(b" ")
    assert "".join(stream("byte_fallback", word)) == "is"
    assert "".join(stream("byte_fallback", word, prompt=[1])) == "is"
    assert "".join(stream("byte_fallback", word, prompt=word)) == " is"


def test_special_tokens_are_shown_on_request():
    qwen = tokenizer("byte_level")
    token_ids = qwen.encode("hello<|im_end|>")
    assert ("".join(stream("byte_level", token_ids)), "".join(stream("byte_level", token_ids, skip=False))) == (
        "hello",
        "hello<|im_end|>",
    )


def byte_ids(data: bytes) -> list[int]:
    return [tokenizer("byte_fallback").backend.token_to_id(f"<0x{byte:02X}>") for byte in data]


# ---------------------------------------------------------------- stop strings


def naive(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The text before the stop string that is completed first, the longest of several, by trying every end."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end - len(stop)], stop
    return text, None


letters = st.text(alphabet="ab<", max_size=5)
stop_lists = st.lists(st.text(alphabet="ab<", min_size=1, max_size=5), max_size=4)


@given(stop_lists, st.lists(letters, max_size=20))
@settings(max_examples=500)
def test_streaming_finds_what_a_search_of_the_whole_text_finds(stops, pieces):
    matcher = StopMatcher(stops)
    released = [*(matcher.push(piece) for piece in pieces), matcher.finish()]
    assert ("".join(r.text for r in released), matcher.stop) == naive("".join(pieces), stops)


@given(stop_lists, st.lists(letters, max_size=20))
@settings(max_examples=500)
def test_text_is_held_only_while_it_may_become_a_match(stops, pieces):
    matcher, sent, seen = StopMatcher(stops), "", ""
    for piece in pieces:
        sent += matcher.push(piece).text
        seen += piece
        if matcher.stop is not None:
            break
        held = seen.removeprefix(sent)
        longest = max((n for s in stops for n in range(1, len(s)) if seen.endswith(s[:n])), default=0)
        assert len(held) == longest


@given(stop_lists, st.lists(letters, max_size=20))
@settings(max_examples=500)
def test_the_tokens_released_are_those_that_begin_in_the_text_released(stops, pieces):
    matcher, sent, tokens = StopMatcher(stops), 0, 0
    for count, piece in enumerate(pieces, start=1):
        released = matcher.push(piece)
        sent, tokens = sent + len(released.text), tokens + released.tokens
        if matcher.stop is None:
            starts = [len("".join(pieces[:i])) for i in range(count)]
            assert tokens == sum(s + bool(p) <= sent for s, p in zip(starts, pieces, strict=False))
    released = matcher.finish()
    if matcher.stop is None:
        assert tokens + released.tokens == len(pieces)


def test_a_stop_string_across_tokens_is_cut_with_its_tokens():
    matcher = StopMatcher(["<end>"])
    assert [matcher.push(text) for text in ("so", " it", "<e", "nd", "> no", "more")] == [
        Released("so", 1),
        Released(" it", 1),
        Released("", 0),
        Released("", 0),
        Released("", 0, "<end>"),
        Released("", 0, "<end>"),
    ]


def test_a_match_that_fails_releases_its_text_and_tokens():
    matcher = StopMatcher(["<end>"])
    assert [matcher.push(text) for text in ("a<", "en", "t")] == [
        Released("a", 1),
        Released("", 0),
        Released("<ent", 2),
    ]


def test_without_stop_strings_nothing_is_held():
    assert [StopMatcher().push("x\n"), StopMatcher().finish()] == [Released("x\n", 1), Released("", 0)]


def test_the_end_releases_what_is_held():
    matcher = StopMatcher(["<end>"])
    assert [matcher.push("<en"), matcher.push("", tokens=0), matcher.finish()] == [
        Released("", 0),
        Released("", 0),
        Released("<en", 1),
    ]


def test_of_two_stops_completed_together_the_longer_counts():
    assert StopMatcher(["b", "ab"]).push("aab") == Released("a", 1, "ab")


def test_the_stop_completed_earliest_counts():
    assert StopMatcher(["abcdef", "cd"]).push("abcdef") == Released("ab", 1, "cd")


@pytest.mark.parametrize("stop", ["a" * 5_000 + "b", "ab" * 2_500 + "c"])
def test_a_long_repetitive_stop_string_costs_no_more_per_character(stop):
    """Searching anew at each character would take 5,000 times 40,000 comparisons, several seconds."""
    matcher = StopMatcher([stop] * 4)
    text = stop[:-1] * 8
    assert len("".join(matcher.push(text[i : i + 4]).text for i in range(0, len(text), 4))) == len(text) - len(stop) + 1
    assert matcher.push(stop[-1]).stop == stop
