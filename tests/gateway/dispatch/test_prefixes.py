"""Prompts that begin alike share their first blocks, whatever follows, and nobody meets another tenant's."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.gateway.dispatch.prefixes import (
    BLOCK_BYTES,
    MAX_BLOCKS,
    PrefixIndex,
    cached_tokens,
    prompt_prefix,
    rendezvous,
)


def fields(**values: object) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in values.items()}


def chat(*contents: str) -> dict[str, msgspec.Raw]:
    roles = ("system", "user", "assistant")
    return fields(messages=[{"role": roles[at % 3], "content": text} for at, text in enumerate(contents)])


def test_the_next_turn_of_a_conversation_repeats_its_prefix() -> None:
    first, second = chat("s" * 2_000, "hello " * 100), chat("s" * 2_000, "hello " * 100, "hi", "more")
    prefix = prompt_prefix(first)
    assert len(prefix) >= 5
    assert prompt_prefix(second)[: len(prefix)] == prefix


def test_what_differs_early_shares_nothing_behind_it() -> None:
    one, other = prompt_prefix(chat("a" + "s" * 4_000)), prompt_prefix(chat("b" + "s" * 4_000))
    assert set(one).isdisjoint(other)


def test_tenants_do_not_meet() -> None:
    prompt = chat("s" * 2_000)
    assert set(prompt_prefix(prompt, b"a")).isdisjoint(prompt_prefix(prompt, b"b"))


def test_all_that_a_template_writes_first_counts_and_nothing_else() -> None:
    tools = [{"type": "function", "function": {"name": "f" * 600}}]
    plain = fields(messages=[{"role": "user", "content": "x" * 1_000}])
    with_tools = plain | fields(tools=tools)
    assert prompt_prefix(with_tools)[0] != prompt_prefix(plain)[0]
    assert prompt_prefix(plain | fields(temperature=1, model="m" * 900)) == prompt_prefix(plain)
    assert prompt_prefix(fields(prompt="p" * 600)) != ()
    assert prompt_prefix(fields(n=1)) == ()
    assert len(prompt_prefix(fields(prompt="p" * 10**6))) == MAX_BLOCKS


def test_a_block_is_about_a_quarter_as_many_tokens_as_bytes() -> None:
    assert cached_tokens(2) == 2 * BLOCK_BYTES / 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 3), min_size=1, max_size=6)), max_size=25))
def test_the_index_finds_the_longest_beginning_that_was_sent(sent: list[tuple[str, list[int]]]) -> None:
    def chain(path: list[int]) -> tuple[bytes, ...]:
        return tuple(bytes(path[: at + 1]) for at in range(len(path)))

    index = PrefixIndex()
    for name, path in sent:
        index.add(name, chain(path))
    for name in "ab":
        for path in ([0, 1, 2], [3, 3, 3, 3], [1]):
            known = [chain(other) for to, other in sent if to == name]
            longest = max(
                (next((i for i, (p, q) in enumerate(zip(chain(path), other, strict=False)) if p != q),
                      min(len(path), len(other))) for other in known),
                default=0,
            )  # fmt: skip
            assert index.matched(name, chain(path)) == longest


def test_the_oldest_is_forgotten_from_its_end() -> None:
    index = PrefixIndex(max_blocks=5)
    index.add("a", (b"1", b"12", b"123"))
    index.add("a", (b"x", b"xy", b"xyz"))
    assert index.matched("a", (b"x", b"xy", b"xyz")) == 3
    assert index.matched("a", (b"1", b"12", b"123")) == 2
    index.forget("a")
    assert index.matched("a", (b"x",)) == 0


def test_a_name_that_goes_moves_only_its_own_keys() -> None:
    names = ["a", "b", "c", "d"]
    keys = [bytes([at, at]) for at in range(200)]
    before = {key: rendezvous(names, key)[0] for key in keys}
    after = {key: rendezvous(names[:3], key)[0] for key in keys}
    assert all(after[key] == before[key] for key in keys if before[key] != "d")
    assert {name: list(before.values()).count(name) > 25 for name in names} == dict.fromkeys(names, True)
