"""The books of the KV cache: which block is free, held or cached, and what a cached block contains.

A block is free (nobody holds it, nothing of value in it), held (one or more sequences have it in their tables) or
cached (nobody holds it, but the prefix index knows its content). Which one follows from two facts that are stored
once: its reference count and whether the index has a digest for it.

Integers and bytes only: the keys and values themselves are in `kv.py`.
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence

from servery.engine.errors import IntegrityError

DIGEST_BYTES = 32


def chain_root(model_id: str, salt: bytes) -> bytes:
    """Where a chain of block digests starts: distinct for every pair of model and salt."""
    model = model_id.encode()
    return hashlib.blake2b(struct.pack("<Q", len(model)) + model + salt, digest_size=DIGEST_BYTES).digest()


def chain(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The digest of a block: it stands for all tokens up to the block's end, and for the root they started from.

    BLAKE2b with 256 bits is collision-resistant, also against chosen tokens: equal digests mean equal prefixes, so a
    match need not compare tokens. Token ids are below 2**32.
    """
    packed = struct.pack(f"<{len(tokens)}I", *tokens)
    return hashlib.blake2b(parent + packed, digest_size=DIGEST_BYTES).digest()


class PrefixIndex:
    """Which block holds which prefix: digest <-> block, one to one.

    When two sequences computed the same prefix side by side, the first to publish wins and the other's block stays
    out of the index; tables are never rewritten.
    """

    def __init__(self, num_blocks: int) -> None:
        self._block_of: dict[bytes, int] = {}
        self._digest_of: list[bytes | None] = [None] * num_blocks

    def __len__(self) -> int:
        """How many blocks can be found here, held or cached."""
        return len(self._block_of)

    def __contains__(self, block: int) -> bool:
        return self._digest_of[block] is not None

    def match(self, digests: Iterable[bytes]) -> list[int]:
        """The blocks of the longest known prefix of a chain. Changes nothing: hold them with `BlockPool.share`."""
        blocks = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def publish(self, block: int, digest: bytes) -> None:
        """Make a held block findable. Its tokens must all be final and its keys and values written."""
        if self._digest_of[block] is not None:
            raise IntegrityError(f"block {block} is published already; a block has one content while it is held.")
        if digest not in self._block_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def forget(self, block: int) -> None:
        """Take a block out of the index, before it gets a new content."""
        digest = self._digest_of[block]
        if digest is not None:
            del self._block_of[digest]
            self._digest_of[block] = None

    def check_integrity(self) -> None:
        """Raise `IntegrityError` unless both directions agree."""
        forward = {block: digest for digest, block in self._block_of.items()}
        backward = {block: digest for block, digest in enumerate(self._digest_of) if digest is not None}
        if forward != backward:
            raise IntegrityError(f"the prefix index has {len(forward)} digests and {len(backward)} blocks that differ.")


class BlockPool:
    """All blocks of the KV cache, with their reference counts and one queue of those that nobody holds.

    The queue is a doubly linked list on two integer arrays, so that taking any block out of it is O(1). Free blocks
    are put in at the front, cached ones at the back: allocation uses free blocks first and then evicts the cached
    block that was released longest ago. A sequence releases its last block first, so that of a cached chain the end
    goes before the beginning, which it would be useless without.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.index = PrefixIndex(num_blocks)
        self._refs = [0] * num_blocks
        # The ring's sentinel has the number num_blocks: its next is the front of the queue, its prev the back.
        self._next: list[int] = [*range(1, num_blocks + 1), 0]
        self._prev: list[int] = [num_blocks, *range(num_blocks)]
        self._available = num_blocks
        self._cached = 0

    @property
    def available_blocks(self) -> int:
        """How many blocks `take` can give: the free and the cached ones."""
        return self._available

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody holds and the index does not know."""
        return self._available - self._cached

    @property
    def cached_blocks(self) -> int:
        """Blocks that nobody holds but a request with the same prefix could use."""
        return self._cached

    @property
    def held_blocks(self) -> int:
        """Blocks in the tables of sequences; a shared one counts once."""
        return self.num_blocks - self._available

    @property
    def shared_blocks(self) -> int:
        """Blocks in the tables of more than one sequence."""
        return sum(refs > 1 for refs in self._refs)

    def cells(self, blocks_per_cell: int) -> bytes:
        """A byte for each so many blocks, in their order: how many are held, times sixteen, and cached; in fifteenths, up."""
        held = bytes(map(bool, self._refs))
        kept = bytes(block in self.index for block in range(self.num_blocks))
        cells = bytearray()
        for first in range(0, self.num_blocks, blocks_per_cell):
            behind = first + blocks_per_cell
            num_held, size = held[first:behind].count(1), min(blocks_per_cell, self.num_blocks - first)
            num_cached = sum(
                is_kept and not is_held for is_held, is_kept in zip(held[first:behind], kept[first:behind], strict=True)
            )
            cells.append(-(-15 * num_held // size) << 4 | -(-15 * num_cached // size))
        return bytes(cells)

    def count_unheld(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` nobody holds: sharing them uses up as many available ones."""
        return sum(self._refs[block] == 0 for block in blocks)

    def take(self, count: int, after: int = -1) -> list[int] | None:
        """Hold `count` blocks that nobody holds, or None when there are fewer; evicts cached ones if it must.

        Each is the free block that follows the one before it, the first that follows `after`, where possible: tables
        then consist of runs. What is evicted comes in ascending order for the same reason.
        """
        if count > self._available:
            return None
        taken: list[int] = []
        while len(taken) < count and self.free_blocks:
            after = self._follower(after)
            self._hold(after)
            taken.append(after)
        evicted = [self._evict() for _ in range(count - len(taken))]
        return taken + sorted(evicted)

    def share(self, blocks: Iterable[int]) -> None:
        """Hold blocks that a match found, whether others hold them or not."""
        for block in blocks:
            if self._refs[block]:
                self._refs[block] += 1
            else:
                self._cached -= block in self.index
                self._hold(block)

    def release(self, blocks: Sequence[int], kept: int | None = None) -> None:
        """Give up one hold on each block of a table, the last first; published ones stay cached.

        With `kept`, only the first so many do, unless somebody else holds them: the others make no cached one wait longer.
        """
        for number in range(len(blocks) - 1, -1, -1):
            block = blocks[number]
            if self._refs[block] < 1:
                raise IntegrityError(f"block {block} is released but nobody holds it ({self!r}).")
            self._refs[block] -= 1
            if not self._refs[block]:
                if kept is not None and number >= kept:
                    self.index.forget(block)
                self._enqueue(block)

    def _follower(self, block: int) -> int:
        """The next block by number if it is free, else the front of the queue."""
        following = block + 1
        if following < self.num_blocks and not self._refs[following] and following not in self.index:
            return following
        return self._next[self.num_blocks]

    def _evict(self) -> int:
        block = self._next[self.num_blocks]
        self.index.forget(block)
        self._cached -= 1
        self._hold(block)
        return block

    def _hold(self, block: int) -> None:
        following, previous = self._next[block], self._prev[block]
        self._next[previous] = following
        self._prev[following] = previous
        self._refs[block] = 1
        self._available -= 1

    def _enqueue(self, block: int) -> None:
        end = self.num_blocks
        if block in self.index:
            previous, following = self._prev[end], end
            self._cached += 1
        else:
            previous, following = end, self._next[end]
        self._next[previous] = self._prev[following] = block
        self._prev[block], self._next[block] = previous, following
        self._available += 1

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise `IntegrityError`, with every figure, unless the books agree with `tables`, all tables there are."""
        held = [0] * self.num_blocks
        for table in tables:
            for block in table:
                held[block] += 1
        wrong = [block for block in range(self.num_blocks) if held[block] != self._refs[block]]
        if wrong:
            figures = ", ".join(f"{b}: {held[b]} tables, {self._refs[b]} references" for b in wrong[:8])
            raise IntegrityError(f"{len(wrong)} blocks are leaked or wrongly shared ({figures}); {self!r}.")
        self._check_queue()
        self.index.check_integrity()

    def _check_queue(self) -> None:
        queue = self._queue()
        unheld = sum(refs == 0 for refs in self._refs)
        cached = [block in self.index for block in queue]
        if len(queue) != unheld or len(queue) != self._available or sum(cached) != self._cached:
            raise IntegrityError(f"{unheld} blocks are unheld, {len(queue)} queued, {sum(cached)} cached; {self!r}.")
        if cached != sorted(cached):
            raise IntegrityError(f"a cached block is queued before a free one: {queue}; {self!r}.")

    def _queue(self) -> list[int]:
        """The unheld blocks in the order in which they would be taken."""
        queue: list[int] = []
        block = self._next[self.num_blocks]
        while block != self.num_blocks and len(queue) <= self.num_blocks:
            if self._prev[self._next[block]] != block or self._refs[block]:
                raise IntegrityError(
                    f"the queue is broken at block {block} ({self._refs[block]} references); {self!r}."
                )
            queue.append(block)
            block = self._next[block]
        return queue

    def __repr__(self) -> str:
        return (
            f"BlockPool({self.num_blocks} blocks: {self.free_blocks} free, {self.held_blocks} held, "
            f"{self.cached_blocks} cached)"
        )
