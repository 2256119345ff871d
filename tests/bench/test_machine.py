"""A result names its machine, commit, date and command, and no key."""

from datetime import UTC, datetime

import pytest

import servery
from servery.bench.machine import Provenance
from servery.engine.threads import usable_cores


def test_provenance_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [
        "--api-key",
        "secret",
        "--api-key=secret",
        "--api-key-b",
        "secret",
        "--judge-api-key=secret",
        "--json",
        "x",
    ]
    monkeypatch.setattr("sys.argv", ["/usr/bin/servery", "bench", *given])
    found = Provenance.now()
    shown = ["--api-key", "***", "--api-key=***", "--api-key-b", "***", "--judge-api-key=***", "--json", "x"]
    assert found.command == ["servery", "bench", *shown]
    assert found.version == servery.__version__
    assert abs((datetime.now(UTC) - datetime.fromisoformat(found.date)).total_seconds()) < 60
    assert found.machine["cores"] == usable_cores() >= 1
    assert {"cpu", "memory_bytes", "system", "python", "load_average_1m"} <= set(found.machine)
