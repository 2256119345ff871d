"""Questions to a ledger: what was used and spent, by whom, where and when, and what a successful task has cost.

A task is what a client calls one with the header `x-servery-task`, of one key; an exchange without is a task of its own.
It has succeeded if its last exchange was completed. Its exchanges that came to nothing are part of what it has cost.
"""

import calendar
import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from servery.config.units import parse_duration
from servery.telemetry.ledger.database import Database

# By what can be summed up: a column, or the day.
GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "key": "key_id",
        "owner": "owner",
        "model": "model",
        "served-model": "served_model",
        "deployment": "deployment",
        "tier": "tier",
        "task": "task",
        "outcome": "outcome",
        "error": "error",
        "day": "",
    }
)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Exchanges that came from `since_s` on and before `until_s`, Unix times."""

    since_s: float = 0.0
    until_s: float = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What the exchanges of one group come to. Money is nano-dollars; `group` has the values it is grouped by."""

    group: tuple[str | None, ...]
    exchanges: int
    completed: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    extra_tokens: int
    estimated: int
    cost_nanousd: int
    dearest_nanousd: int
    slo_met: int
    slo_missed: int
    tasks: int
    successful_tasks: int

    @property
    def saved_nanousd(self) -> int:
        """What placing saved against the dearest deployment of each model."""
        return self.dearest_nanousd - self.cost_nanousd

    @property
    def cost_per_successful_task_nanousd(self) -> int | None:
        """To the nearest; None without one."""
        if not self.successful_tasks:
            return None
        return (2 * self.cost_nanousd + self.successful_tasks) // (2 * self.successful_tasks)


def sums(database: Database, by: Sequence[str], span: Span) -> list[Sum]:
    """The groups, the dearest first, by day the earliest first; without `by` the total. Raises `DatabaseFailure`.

    Of `GROUPS`; a `KeyError` for another.
    """
    day = database.dialect.day.format(column="at_s")
    columns = [GROUPS[name] or day for name in by]
    names = [f"g{at}" for at in range(len(columns))]
    chosen = "".join(f"{column} AS {name}, " for column, name in zip(columns, names, strict=True))
    grouped = "".join(f"{name}, " for name in names)
    days = [name for name, group in zip(names, by, strict=True) if group == "day"]
    order = ", ".join([*days, "sum(cost_nanousd) DESC", *names])
    tail = f" GROUP BY {', '.join(names)} ORDER BY {order}" if names else ""
    sql = f"""
        WITH asked AS (
            SELECT {chosen}exchanges.*, ROW_NUMBER() OVER (
                PARTITION BY key_id, task IS NULL, COALESCE(task, id) ORDER BY at_s DESC, id DESC
            ) AS from_end
            FROM exchanges WHERE at_s >= ? AND at_s < ?
        )
        SELECT {grouped}count(*), count(*) FILTER (WHERE outcome = 'completed'), {_SUMS},
            count(*) FILTER (WHERE is_slo_met), count(*) FILTER (WHERE NOT is_slo_met),
            count(*) FILTER (WHERE from_end = 1), count(*) FILTER (WHERE from_end = 1 AND outcome = 'completed')
        FROM asked{tail}
    """  # noqa: S608 - every name in it is of this file
    return [_sum(values, len(names)) for values in database.execute(sql, (span.since_s, span.until_s))]


_SUMS = ", ".join(
    [
        *(f"CAST(COALESCE(sum({name}), 0) AS BIGINT)" for name in ("prompt_tokens", "cached_tokens")),
        *(f"CAST(COALESCE(sum({name}), 0) AS BIGINT)" for name in ("generated_tokens", "extra_tokens")),
        "count(*) FILTER (WHERE is_estimated)",
        *(f"CAST(COALESCE(sum({name}), 0) AS BIGINT)" for name in ("cost_nanousd", "dearest_nanousd")),
    ]
)
_FIELDS = tuple(Sum.__dataclass_fields__)[1:]


def _sum(values: Sequence[Any], groups: int) -> Sum:
    return Sum(group=tuple(values[:groups]), **dict(zip(_FIELDS, map(int, values[groups:]), strict=True)))


def parse_moment(given: str, now_s: float) -> float:
    """Unix time of a day (`2026-11-21`, its midnight of UTC), a moment (ISO 8601, UTC unless it says) or so long ago (`7d`).

    Raises `ValueError`.
    """
    try:
        if _DATE.fullmatch(given):
            return float(calendar.timegm(datetime.date.fromisoformat(given).timetuple()))
        if "T" in given or " " in given.strip():
            moment = datetime.datetime.fromisoformat(given)
            return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
        return now_s - parse_duration(given)
    except ValueError:
        message = f"'{given}' is no time; write 2026-11-21, 2026-11-21T08:00:00Z, or how long ago it was: 24h, 7d"
        raise ValueError(message) from None
