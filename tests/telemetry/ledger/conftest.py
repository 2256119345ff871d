"""Where ledgers are kept in tests: in a file, and in a database of a real PostgreSQL server."""

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from servery.config.secret import Secret
from servery.config.types import LedgerConfig
from tests.conftest import lacking

_NAMES = itertools.count()


@pytest.fixture(scope="session")
def postgres(require_program: Callable[[str], str]) -> Iterator[str]:
    """The address, up to the database's name, of a server that is reached by a socket in a folder of its own."""
    require_program("pg_ctlcluster")  # what the package puts on the PATH; the programs themselves lie elsewhere
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        lacking("the programs of PostgreSQL are not below /usr/lib/postgresql")
    # The server refuses to run as root, and a socket's path must be short.
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    os.chown(folder, user.pw_uid, user.pw_gid)

    def run(program: str, *arguments: str) -> None:
        command = [str(programs[-1] / program), "-D", str(folder / "data"), *arguments]
        other = {} if os.geteuid() else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        subprocess.run(command, check=True, capture_output=True, cwd=folder, timeout=60, **other)  # type: ignore[call-overload]

    try:
        run("initdb", "-U", "servery", "--auth=trust", "--no-sync", "--no-instructions", "-E", "UTF8")
        options = f"-k {folder} -c listen_addresses= -c fsync=off -c shared_buffers=1MB -c max_connections=20"
        run("pg_ctl", "start", "-w", "-o", options, "-l", str(folder / "log"))
        try:
            yield f"postgresql://servery@/%s?host={folder}"
        finally:
            run("pg_ctl", "stop", "-m", "immediate", "-w")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LedgerConfig:
    """A place without a ledger: what is claimed of one is claimed of both."""
    if request.param == "sqlite":
        return LedgerConfig(path=tmp_path / "folder" / "rows.sqlite")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    address = request.getfixturevalue("postgres")
    name = f"ledger{next(_NAMES)}"
    with psycopg.connect(address % "postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")  # type: ignore[arg-type]
    return LedgerConfig(url=Secret(address % name))
