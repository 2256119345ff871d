"""How the ledger is doing."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerFigures:
    """How the ledger is now: rows written, lost and waiting, and how often the database took nothing."""

    written: int
    lost: int
    waiting: int
    failures: int
