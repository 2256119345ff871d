import contextlib
import random

import pytest

from servery.config.types import LedgerConfig
from servery.telemetry.history import History
from servery.telemetry.ledger.database import open_database
from servery.telemetry.ledger.row import LedgerRow
from servery.telemetry.ledger.writer import Ledger
from servery.telemetry.timeline import Timeline
from tests.telemetry.ledger.rows import ROW

NOW_S = 1_790_000_001.5


def rows(count: int = 400) -> list[LedgerRow]:
    """Exchanges of the last half hour and before, of two models, one of which has an adapter."""
    dice = random.Random(7)
    return [
        ROW._replace(
            id=f"id{at}", at_s=NOW_S - dice.uniform(0, 2400), e2e_s=dice.uniform(0.01, 90), key_id=dice.choice("ab"),
            served_model=dice.choice(["m", "m:lora", "mm"]), deployment=dice.choice([None, "x", "y"]),
            outcome=(outcome := dice.choice(["completed", "completed", "failed", "client_gone"])),
            error=dice.choice(["reset", None]) if outcome != "completed" else None,
            ttft_s=dice.choice([None, dice.uniform(0.01, 3)]), tpot_s=dice.choice([None, dice.uniform(0.001, 0.1)]),
            prompt_tokens=dice.randrange(10_000), cached_tokens=dice.randrange(100),
            generated_tokens=dice.randrange(900), cost_nanousd=dice.randrange(10**12),
            is_slo_met=dice.choice([None, True, False]),
        )
        for at in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("model", [None, "m", "mm"])
def test_the_database_and_the_timeline_say_the_same_of_the_same_rows(place: LedgerConfig, model: str | None) -> None:
    """Two ways to one answer, of which neither knows the other."""
    seen: list[LedgerRow] = []
    ledger, written = Ledger(place, told=seen.extend), rows()
    ledger.start()
    for row in written:
        ledger.add(row)
    ledger.close()
    assert seen == written
    timeline = Timeline(20.0, 90)
    timeline.turn(NOW_S)
    for row in written:
        if model is None or row.served_model.partition(":")[0] == model:
            timeline.add(row)
    since_s = 20.0 * (NOW_S // 20.0 - 89)
    with contextlib.closing(open_database(place, is_read_only=True)) as database:
        history = History(database, since_s, model)
        points, summary, newest = history.points(20.0), history.summary(), history.newest(5)
    assert points == timeline.points()
    told = timeline.summary()
    assert (summary.total, summary.measured, summary.errors) == (told.total, told.measured, told.errors)
    assert (summary.by_deployment, summary.by_key) == (told.by_deployment, told.by_key)
    assert [row.at_s for row in newest] == sorted(row.at_s for row in newest)
    assert len(newest) == 5
