import hashlib
import struct

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from servery.engine.blocks import BlockPool, PrefixIndex, chain, chain_root
from servery.engine.errors import IntegrityError


def digests(tokens: list[int], size: int, root: bytes = b"") -> list[bytes]:
    found = []
    for start in range(0, len(tokens) - size + 1, size):
        root = chain(root, tokens[start : start + size])
        found.append(root)
    return found


def figures(pool: BlockPool) -> tuple[int, int, int]:
    return pool.free_blocks, pool.held_blocks, pool.cached_blocks


# The chain of digests.


def test_pitfall_5_a_digest_is_256_bits_of_blake2b_over_parent_and_tokens():
    expected = hashlib.blake2b(b"parent" + struct.pack("<3I", 1, 2, 2**31), digest_size=32).digest()
    assert chain(b"parent", [1, 2, 2**31]) == expected
    assert len(expected) == 32


def test_pitfall_5_other_salts_models_parents_and_tokens_give_other_digests():
    roots = [
        chain_root("m", b""),
        chain_root("m", b"a"),
        chain_root("n", b""),
        chain_root("ma", b""),
        chain_root("", b"m"),
    ]
    variants = [*roots, *(chain(root, [1, 2]) for root in roots), chain(roots[0], [2, 1]), chain(roots[0], [1, 2, 0])]
    assert len(set(variants)) == len(variants)


def test_a_digest_stands_for_the_whole_prefix():
    one, other = digests([1, 2, 3, 4, 5, 6], 2), digests([1, 2, 9, 4, 5, 6], 2)
    assert one[0] == other[0]
    assert one[1] != other[1]
    assert one[2] != other[2], "the same tokens after another prefix"


# The prefix index.


def test_match_finds_the_longest_known_prefix_and_changes_nothing():
    index = PrefixIndex(4)
    first, second, third = digests([1, 2, 3], 1)
    index.publish(2, first)
    index.publish(0, third)
    assert index.match([first, second, third]) == [2], "what is behind a gap is of no use"
    index.publish(3, second)
    assert [index.match([first, second, third]) for _ in range(2)] == [[2, 3, 0]] * 2
    assert index.match([]) == []
    assert len(index) == 3


def test_the_first_to_publish_a_prefix_wins_and_the_other_block_stays_unknown():
    index = PrefixIndex(4)
    index.publish(0, b"x")
    index.publish(1, b"x")
    assert (index.match([b"x"]), 0 in index, 1 in index) == ([0], True, False)
    index.forget(1)
    assert index.match([b"x"]) == [0]
    index.forget(0)
    assert (index.match([b"x"]), len(index)) == ([], 0)
    index.check_integrity()


def test_a_block_has_one_content_while_it_is_held():
    index = PrefixIndex(4)
    index.publish(0, b"x")
    with pytest.raises(IntegrityError, match="block 0 is published already"):
        index.publish(0, b"y")
    assert (index.match([b"x"]), index.match([b"y"])) == ([0], [])


# The pool.


def test_take_gives_nothing_rather_than_too_little():
    pool = BlockPool(3)
    assert pool.take(4) is None
    assert figures(pool) == (3, 0, 0)
    assert pool.take(0) == []
    assert pool.take(3) == [0, 1, 2]
    assert (pool.take(1), figures(pool)) == (None, (0, 3, 0))


def test_tables_are_runs_where_possible():
    pool = BlockPool(12)
    first, second = pool.take(3), pool.take(3)
    assert (first, second) == ([0, 1, 2], [3, 4, 5])
    assert pool.take(1, after=5) == [6]
    assert pool.take(1, after=2) == [7], "3 is held: the front of the queue instead"
    pool.release([3, 4, 5])
    assert pool.take(2, after=2) == [3, 4]
    assert pool.take(3, after=7) == [8, 9, 10]
    assert pool.take(2, after=11) == [5, 11], "there is no block after the last"


def test_the_end_of_a_released_table_is_evicted_before_its_beginning():
    pool = BlockPool(4)
    table = pool.take(4)
    for block, digest in zip(table, digests([1, 2, 3, 4], 1), strict=True):
        pool.index.publish(block, digest)
    pool.release(table)
    assert figures(pool) == (0, 0, 4)
    assert pool.take(2) == [2, 3], "evicted from the end, handed out in ascending order"
    assert pool.index.match(digests([1, 2, 3, 4], 1)) == [0, 1]
    assert figures(pool) == (0, 2, 2)


def test_free_blocks_are_used_up_before_a_cached_one_is_evicted_and_then_the_least_recent():
    pool = BlockPool(4)
    (a,), (b,), (c,) = pool.take(1), pool.take(1), pool.take(1)
    pool.index.publish(a, b"a")
    pool.index.publish(b, b"b")
    pool.release([a])
    pool.release([b])
    pool.release([c])
    pool.share(pool.index.match([b"a"]))
    pool.release([a])  # now more recent than b
    assert figures(pool) == (2, 0, 2)
    assert sorted(pool.take(2)) == [2, 3]
    assert pool.take(1) == [b]
    assert (pool.index.match([b"a"]), pool.index.match([b"b"])) == ([a], [])


def test_a_shared_block_is_held_until_the_last_holder_releases_it():
    pool = BlockPool(2)
    table = pool.take(1)
    pool.index.publish(0, b"x")
    pool.share(table)
    pool.check_integrity([table, table])
    pool.release(table)
    assert figures(pool) == (1, 1, 0)
    pool.release(table)
    assert figures(pool) == (1, 0, 1)
    assert pool.count_unheld([0, 1]) == 2
    pool.share([0])
    assert (figures(pool), pool.count_unheld([0, 1])) == ((1, 1, 0), 1)
    pool.check_integrity([[0]])


def test_releasing_what_nobody_holds_is_an_error_with_every_figure():
    pool = BlockPool(2)
    pool.release(pool.take(1))
    with pytest.raises(IntegrityError, match=r"block 0 is released .*2 blocks: 2 free, 0 held, 0 cached"):
        pool.release([0])


def test_check_integrity_tells_leaked_and_wrongly_shared_blocks():
    pool = BlockPool(3)
    table = pool.take(2)
    pool.check_integrity([table])
    with pytest.raises(IntegrityError, match=r"1: 0 tables, 1 references"):
        pool.check_integrity([[0]])
    with pytest.raises(IntegrityError, match=r"0: 2 tables, 1 references"):
        pool.check_integrity([table, [0]])


class PoolMachine(RuleBasedStateMachine):
    """The pool against two plain dictionaries and a list."""

    @initialize(count=st.integers(1, 12))
    def begin(self, count: int) -> None:
        self.pool = BlockPool(count)
        self.tables: list[list[int]] = []
        self.content: dict[int, bytes] = {}  # what each published block holds
        self.lru: list[int] = []  # cached blocks, least recently released first
        self.fresh = 0

    @rule(count=st.integers(0, 5), after=st.integers(-1, 12))
    def take(self, count: int, after: int) -> None:
        free, unheld = self.pool.free_blocks, self.pool.available_blocks
        held = {block for table in self.tables for block in table}
        taken = self.pool.take(count, after)
        if count > unheld:
            assert taken is None
            return
        assert len(set(taken)) == count
        assert not set(taken) & held
        evicted, self.lru = self.lru[: max(count - free, 0)], self.lru[max(count - free, 0) :]
        assert {block for block in taken if block in self.content} == set(evicted)
        for block in evicted:
            del self.content[block]
        self.tables.append(taken)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        self.pool.release(table)
        held = {block for table in self.tables for block in table}
        self.lru += [block for block in reversed(table) if block not in held and block in self.content]

    @precondition(lambda self: any(self.tables))
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted({block for table in self.tables for block in table})))
        if block in self.content:
            return
        self.fresh += 1
        self.content[block] = b"%d" % self.fresh
        self.pool.index.publish(block, self.content[block])

    @precondition(lambda self: self.content)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.content)))
        assert self.pool.index.match([self.content[block]]) == [block]
        self.pool.share([block])
        self.tables.append([block])
        self.lru = [other for other in self.lru if other != block]

    @invariant()
    def figures_agree(self) -> None:
        if hasattr(self, "pool"):
            self.pool.check_integrity(self.tables)
            held = {block for table in self.tables for block in table}
            assert figures(self.pool) == (
                self.pool.num_blocks - len(held) - len(self.lru),
                len(held),
                len(self.lru),
            )
            assert len(self.pool.index) == len(self.content)


PoolMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None, derandomize=True)
TestPoolAgainstANaiveModel = PoolMachine.TestCase
