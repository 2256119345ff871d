"""What stands in a ledger, as rows."""

import contextlib
from pathlib import Path

from servery.config.types import LedgerConfig
from servery.telemetry.ledger.database import open_database
from servery.telemetry.ledger.row import LedgerRow
from servery.telemetry.ledger.tables import read_rows


def rows_in(place: Path | LedgerConfig) -> list[LedgerRow]:
    """Every row, the oldest first; raises `LedgerError`."""
    config = LedgerConfig(path=place) if isinstance(place, Path) else place
    with contextlib.closing(open_database(config, is_read_only=True)) as database:
        return read_rows(database)
