"""The same that a `Timeline` says, of what stands in a ledger: computed by the database, for spans of any length."""

# ruff: noqa: S608 - every name in a statement is of this package

from collections.abc import Sequence
from typing import Any

from servery.telemetry.ledger.database import Database
from servery.telemetry.ledger.row import LedgerRow
from servery.telemetry.ledger.schema import COLUMNS
from servery.telemetry.ledger.tables import row_of
from servery.telemetry.timeline import QUANTILES, Part, Point, Summary, Times

# How long an exchange may have been under way: where to begin in the index, which is by arrival.
_LONGEST_S = 3600.0
_SETTLED = "at_s + e2e_s"
_COUNTS = ", ".join(
    [
        "count(*)",
        "count(*) FILTER (WHERE outcome = 'completed')",
        "count(*) FILTER (WHERE is_slo_met)",
        "count(*) FILTER (WHERE NOT is_slo_met)",
        *(
            f"CAST(COALESCE(sum({name}), 0) AS BIGINT)"
            for name in ("prompt_tokens", "cached_tokens", "generated_tokens", "cost_nanousd")
        ),
    ]
)
_PARTS = (
    "count(*), count(*) FILTER (WHERE outcome <> 'completed'), "
    "CAST(sum(prompt_tokens + generated_tokens) AS BIGINT), CAST(sum(cost_nanousd) AS BIGINT)"
)


class History:
    """What was settled from `since_s` on, Unix time, of one model or of all. Each question raises `DatabaseFailure`."""

    def __init__(self, database: Database, since_s: float, model: str | None = None) -> None:
        self._database = database
        self._since_s = since_s
        self._where = f"at_s >= ? AND {_SETTLED} >= ?"
        self._values: list[Any] = [since_s - _LONGEST_S, since_s]
        if model is not None:  # with its adapters, which are called base:adapter
            self._where += " AND (served_model = ? OR substr(served_model, 1, ?) = ?)"
            self._values += [model, len(model) + 1, f"{model}:"]

    def points(self, step_s: float) -> list[Point]:
        """Slices in which there was anything, the oldest first; `since_s` is where one begins."""
        slot = self._database.dialect.whole.format(value=f"({_SETTLED}) / {float(step_s)}")
        counts = self._ask(f"SELECT {slot} AS slot, {_COUNTS} FROM exchanges WHERE {self._where} GROUP BY 1 ORDER BY 1")
        ttfts, tpots = self._times("ttft_s", slot), self._times("tpot_s", slot)
        return [
            Point._make([slot * step_s, *map(int, rest), ttfts.get(slot, Times()), tpots.get(slot, Times())])
            for slot, *rest in counts
        ]

    def summary(self) -> Summary:
        """All of it together."""
        counts = self._ask(f"SELECT {_COUNTS} FROM exchanges WHERE {self._where}")[0]
        ttft, tpot = (self._times(name, "0").get(0, Times()) for name in ("ttft_s", "tpot_s"))
        errors = self._ask(
            f"SELECT COALESCE(error, outcome), count(*) FROM exchanges WHERE {self._where} AND outcome <> 'completed' "
            "GROUP BY 1 ORDER BY 2 DESC, 1"
        )
        measured = self._ask(f"SELECT count(ttft_s) FROM exchanges WHERE {self._where}")[0][0]
        return Summary(
            total=Point._make([self._since_s, *map(int, counts), ttft, tpot]),
            measured=int(measured),
            errors={str(name): int(count) for name, count in errors},
            by_deployment=self._parts("deployment"),
            by_key=self._parts("key_id"),
        )

    def by_owner(self) -> dict[str, Part]:
        """What the keys of each owner came to."""
        return self._parts("owner")

    def by_key(self) -> dict[str, Part]:
        """What each key came to."""
        return self._parts("key_id")

    def newest(self, most: int) -> list[LedgerRow]:
        """The newest rows, the oldest of them first."""
        names = ", ".join(COLUMNS)
        found = self._ask(f"SELECT {names} FROM exchanges WHERE {self._where} ORDER BY at_s DESC LIMIT {int(most)}")
        return [row_of(values) for values in reversed(found)]

    def _parts(self, column: str) -> dict[str, Part]:
        found = self._ask(
            f"SELECT {column}, {_PARTS} FROM exchanges WHERE {self._where} AND {column} IS NOT NULL GROUP BY 1"
        )
        return {str(name): (int(part[0]), int(part[1]), int(part[2]), int(part[3])) for name, *part in found}

    def _times(self, column: str, slot: str) -> dict[int, Times]:
        """Percentiles by nearest rank, by slot."""
        ranks = ", ".join(f"(n * {q} + 99) / 100" for q in QUANTILES)
        found = self._ask(
            f"""
            SELECT slot, rank, n, value FROM (
                SELECT slot, value, row_number() OVER (PARTITION BY slot ORDER BY value) AS rank,
                    count(*) OVER (PARTITION BY slot) AS n
                FROM (SELECT {slot} AS slot, {column} AS value FROM exchanges WHERE {self._where}) AS every
                WHERE value IS NOT NULL
            ) AS ranked WHERE rank IN ({ranks})
            """
        )
        values = {(int(slot), int(rank)): (int(n), 1000 * float(value)) for slot, rank, n, value in found}
        sizes = {slot: n for (slot, _), (n, _) in values.items()}
        return {slot: Times(*(values[slot, (n * q + 99) // 100][1] for q in QUANTILES)) for slot, n in sizes.items()}

    def _ask(self, sql: str) -> Sequence[tuple[Any, ...]]:
        return self._database.execute(sql, self._values)
