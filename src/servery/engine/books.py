"""Whether what a scheduler notes of its sequences adds up. No torch."""

from collections.abc import Sequence as Several

from servery.engine.errors import IntegrityError
from servery.engine.request import Sequence
from servery.engine.waiting import rank


def check_books(
    alive: Several[Sequence], waiting: Several[Sequence], running: Several[Sequence], block_size: int
) -> None:
    """Raise `IntegrityError`, with every figure, unless everybody waits or runs, and has the blocks that it should."""
    if sorted(map(rank, alive)) != sorted(map(rank, [*waiting, *running])):
        raise IntegrityError(f"{len(alive)} are alive, {len(waiting)} waiting and {len(running)} running.")
    for sequence in waiting:
        if sequence.block_ids or sequence.computed or sequence.published:
            raise IntegrityError(f"{sequence!r} waits and holds blocks.")
    for sequence in running:
        covered = len(sequence.block_ids) * block_size
        if not 0 <= sequence.computed < len(sequence.tokens) or sequence.computed > covered:
            raise IntegrityError(f"{sequence!r} has blocks for {covered} positions.")
        if sequence.published * block_size > sequence.computed:
            raise IntegrityError(f"{sequence!r} has published {sequence.published} blocks.")
