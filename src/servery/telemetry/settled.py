"""The rows of the exchanges that were over last, in memory: what a live view is made of, whether there is a ledger or not."""

from collections.abc import Sequence

from servery.telemetry.ledger.row import LedgerRow


class SettledRows:
    """The newest `size` rows. One thread adds; any may read, because a slot is written before it is counted."""

    def __init__(self, size: int = 8192) -> None:
        self._slots: list[LedgerRow | None] = [None] * size
        self.count = 0  # of all that were ever added

    def begin(self) -> None:
        """An exchange has begun: nothing to be seen of it yet."""

    def add(self, row: LedgerRow) -> None:
        """Take a row; the oldest goes."""
        self._slots[self.count % len(self._slots)] = row
        self.count += 1

    def take(self, rows: Sequence[LedgerRow]) -> None:
        """Take rows in their order."""
        for row in rows:
            self.add(row)

    def since(self, count: int) -> tuple[list[LedgerRow], int]:
        """The rows that came after the first `count` and are still here, and the count to go on with."""
        now, size = self.count, len(self._slots)
        found = [self._slots[at % size] for at in range(max(count, now - size, 0), now)]
        return [row for row in found if row is not None], now
