"""What sequences share of a prefix: the blocks that one finds, those that others are about to have, those that it gives.

A block is published once every token in it is final and computed, under the digest of all tokens up to its end.
"""

from collections.abc import Iterable

from servery.engine.blocks import BlockPool, chain
from servery.engine.request import Sequence


class SharedPrefixes:
    """The prefixes in one pool of blocks of `block_size` tokens."""

    def __init__(self, pool: BlockPool, block_size: int) -> None:
        self._pool = pool
        self._block_size = block_size

    def match(self, sequence: Sequence) -> list[int]:
        """The blocks with the sequence's prefix; never the newest token's, which has to be computed for its logits."""
        if sequence.needs_every_position:
            return []
        return self._pool.index.match(sequence.digests[: self._usable(sequence)])

    def wanted(self, sequence: Sequence, blocks: int) -> bytes:
        """The digest of the block after the first `blocks` that the sequence could use; empty if there is none."""
        usable = min(self._usable(sequence), len(sequence.digests))
        return sequence.digests[blocks] if blocks < usable and not sequence.needs_every_position else b""

    def frontier(self, running: Iterable[Sequence]) -> set[bytes]:
        """The digests of the blocks that running sequences are about to publish."""
        return {s.digests[s.published] for s in running if s.published < len(s.digests)}

    def publish(self, sequence: Sequence) -> None:
        """Let others find the blocks that are now full of final, computed tokens."""
        size = self._block_size
        full = sequence.computed // size
        if full == sequence.published or not sequence.root:
            return
        digests = sequence.digests
        while len(digests) < full:
            start = len(digests) * size
            digests.append(chain(digests[-1] if digests else sequence.root, sequence.tokens[start : start + size]))
        for number in range(sequence.published, full):
            self._pool.index.publish(sequence.block_ids[number], digests[number])
        sequence.published = full

    def kept_blocks(self, sequence: Sequence) -> int | None:
        """How many stay cached after it; None: all. A batch must not evict the prefixes of those who come back to them."""
        return sequence.cached_tokens // self._block_size if sequence.is_background else None

    def _usable(self, sequence: Sequence) -> int:
        return (len(sequence.tokens) - 1) // self._block_size
