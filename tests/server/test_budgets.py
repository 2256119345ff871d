"""What budgets in memory begin with after a restart."""

import asyncio
from pathlib import Path

import pytest

from servery.config.types import LedgerConfig, Limits
from servery.gateway.admit.limits.memory import MemoryLimits
from servery.gateway.admit.limits.meter import Cost, Plan, meters
from servery.server.budgets import recall_spent
from servery.telemetry.ledger.writer import Ledger
from tests.telemetry.ledger.rows import ROW

# 2026-11-21T12:00:00Z
NOON_S = 1_795_262_400.0
DAY_S = 86_400
BUDGET = Limits(microusd_per_day=1000, microusd_per_month=1000)


def spent(store: MemoryLimits, scope: str, name: str) -> list[int]:
    return list(asyncio.run(store.reserve(Plan(meters(scope, name, BUDGET)), Cost(), 1)).used)


def test_budgets_go_on_with_what_the_ledger_says(tmp_path: Path) -> None:
    place = LedgerConfig(path=tmp_path / "ledger.sqlite")
    ledger = Ledger(place)
    ledger.start()
    for name, at_s, key_id, owner, cost_nanousd in (
        ("today", NOON_S - 60, "k1", "ann", 12_001),
        ("today too", NOON_S - 43_200, "k2", "ann", 3_000),
        ("yesterday", NOON_S - 43_201, "k1", None, 100_000),
        ("last month", NOON_S - 21 * DAY_S, "k1", "ann", 900_000),
        ("free", NOON_S, "k1", "ann", 0),
    ):
        ledger.add(ROW._replace(id=name, at_s=at_s, key_id=key_id, owner=owner, cost_nanousd=cost_nanousd))
    ledger.close()
    store = MemoryLimits(lambda: 1.0, lambda: NOON_S)
    recall_spent(store, place, NOON_S)
    assert spent(store, "key", "k1") == [13, 113]
    assert spent(store, "key", "k2") == [3, 3]
    assert spent(store, "owner", "ann") == [16, 16]
    assert spent(store, "model", "m") == [16, 116]


def test_without_a_ledger_that_can_be_read_they_begin_at_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryLimits(lambda: 1.0, lambda: NOON_S)
    recall_spent(store, None, NOON_S)
    recall_spent(store, LedgerConfig(path=tmp_path / "none.sqlite"), NOON_S)
    assert spent(store, "key", "k1") == [0, 0]
    (record,) = caplog.records
    assert record.message.startswith("budgets begin at nothing, because the ledger does not say what was spent: ")
