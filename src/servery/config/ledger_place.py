"""Where a ledger is kept, as people write it: a file, or the address of a PostgreSQL database."""

from pathlib import Path
from urllib.parse import urlsplit

from servery.config.secret import Secret
from servery.config.types import LedgerConfig

_SCHEMES = ("postgresql", "postgres")


def ledger_place(given: str, folder: Path, retention_s: float | None = None) -> LedgerConfig:
    """What `given` names; relative paths are below `folder`. Raises `ValueError`, which never repeats an address."""
    scheme, separator, _ = given.partition("://")
    if not separator:
        if not given.strip() or "\0" in given:
            raise ValueError("the ledger needs the path of a file, or postgresql://USER@HOST/DATABASE")
        return LedgerConfig(path=folder / Path(given).expanduser(), retention_s=retention_s)
    if scheme not in _SCHEMES:
        raise ValueError(f"a ledger is kept in a file or at postgresql://, not at {scheme[:20]}://")
    try:
        parts = urlsplit(given)
        is_right = bool(parts.path.strip("/")) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_right = False
    if not is_right or any(c.isspace() or not c.isprintable() for c in given):
        raise ValueError("the ledger's address is not right; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    return LedgerConfig(url=Secret(given), retention_s=retention_s)
