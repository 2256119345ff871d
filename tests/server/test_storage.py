import stat
from pathlib import Path

import pytest

from servery.config.types import LedgerConfig
from servery.server.storage import open_storage
from servery.telemetry.ledger.audit import Act, AuditLog


async def _unasked(asked: object) -> bytes:
    raise AssertionError("nothing is asked")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("is_from_before", [False, True])
def test_what_clients_left_is_for_the_servers_user_alone(tmp_path: Path, is_from_before: bool) -> None:
    folder = tmp_path / "kept"
    if is_from_before:
        for path in (folder, folder / "files", folder / "batches"):
            path.mkdir(mode=0o755)
    storage = open_storage(folder, max_bytes=100, max_file_bytes=100, answer=_unasked)
    storage.lock.close()
    found = [mode(path) for path in (folder, folder / "files", folder / "batches")]
    assert found == [0o755 if is_from_before else 0o700, 0o700, 0o700]  # who made a folder may have others in it


def test_a_ledger_is_for_the_servers_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    assert AuditLog(LedgerConfig(path=path)).record(Act(who="local", action="reload"))
    assert {each.name: oct(mode(each)) for each in tmp_path.iterdir()} == {
        each.name: "0o600" for each in tmp_path.iterdir()
    }
    path.chmod(0o640)  # its operator lets a group read it
    assert AuditLog(LedgerConfig(path=path)).record(Act(who="local", action="reload"))
    assert mode(path) == 0o640
