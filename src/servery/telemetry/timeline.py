"""What exchanges came to over time: counts, tokens, money and exact percentiles, slice by slice as they were settled.

An exchange belongs to the moment at which it was over. Percentiles are by nearest rank, so each is a time that some
request took: of n values in order the one of number ceil(q n).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from servery.telemetry.ledger.row import LedgerRow

QUANTILES = (50, 95, 99)
# Beyond so many of the newest values the percentiles of a whole timeline look no further back.
MOST_VALUES = 20_000


class Times(NamedTuple):
    """Percentiles in milliseconds; None where there is no value."""

    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None


class Point(NamedTuple):
    """One slice. `at_s` is Unix time of its beginning; `good` and `missed` are exchanges by their model's SLO."""

    at_s: float
    exchanges: int
    completed: int
    good: int
    missed: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    cost_nanousd: int
    ttft: Times
    tpot: Times


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All slices together; `by_deployment`, `by_key` have (exchanges, those that were not completed, tokens, nano-dollars)."""

    total: Point
    measured: int
    errors: dict[str, int]
    by_deployment: dict[str, tuple[int, int, int, int]]
    by_key: dict[str, tuple[int, int, int, int]]


Part = tuple[int, int, int, int]
NO_PART: Part = (0, 0, 0, 0)


def plus(one: Part, other: Part) -> Part:
    """Their sum."""
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3]


@dataclass(slots=True)
class Slice:
    """What was settled in one slice."""

    exchanges: int = 0
    completed: int = 0
    good: int = 0
    missed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    cost_nanousd: int = 0
    ttfts_s: list[float] = field(default_factory=list)
    tpots_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    by_deployment: dict[str, Part] = field(default_factory=dict)
    by_key: dict[str, Part] = field(default_factory=dict)
    point: Point | None = None  # as long as nothing comes in

    def add(self, row: LedgerRow) -> None:
        """Take an exchange in."""
        self.point = None
        is_completed = row.outcome == "completed"
        self.exchanges += 1
        self.completed += is_completed
        self.good += row.is_slo_met is True
        self.missed += row.is_slo_met is False
        self.prompt_tokens += row.prompt_tokens
        self.cached_tokens += row.cached_tokens
        self.generated_tokens += row.generated_tokens
        self.cost_nanousd += row.cost_nanousd
        if row.ttft_s is not None:
            self.ttfts_s.append(row.ttft_s)
        if row.tpot_s is not None:
            self.tpots_s.append(row.tpot_s)
        if not is_completed:
            self.errors[row.error or row.outcome] += 1
        part = (1, 0 if is_completed else 1, row.prompt_tokens + row.generated_tokens, row.cost_nanousd)
        if row.deployment is not None:
            self.by_deployment[row.deployment] = plus(self.by_deployment.get(row.deployment, NO_PART), part)
        self.by_key[row.key_id] = plus(self.by_key.get(row.key_id, NO_PART), part)

    def at(self, at_s: float) -> Point:
        """It as a point."""
        if self.point is None:
            self.ttfts_s.sort()
            self.tpots_s.sort()
            self.point = self._point(at_s, times_of(self.ttfts_s), times_of(self.tpots_s))
        return self.point

    def _point(self, at_s: float, ttft: Times, tpot: Times) -> Point:
        return Point(
            at_s, self.exchanges, self.completed, self.good, self.missed, self.prompt_tokens, self.cached_tokens,
            self.generated_tokens, self.cost_nanousd, ttft, tpot,
        )  # fmt: skip


class Timeline:
    """The last `length` slices of `step_s` each. Rows may come in any order; those that are too old are left out."""

    def __init__(self, step_s: float, length: int) -> None:
        self.step_s = step_s
        self.length = length
        self._slices: dict[int, Slice] = {}
        self._first = 0

    @property
    def window_s(self) -> float:
        """The time that it spans."""
        return self.step_s * self.length

    def turn(self, now_s: float) -> None:
        """It is `now_s` (Unix time): what is too old goes."""
        self._first = int(now_s // self.step_s) - self.length + 1
        for number in [each for each in self._slices if each < self._first]:
            del self._slices[number]

    def add(self, row: LedgerRow) -> None:
        """Take an exchange in."""
        number = int((row.at_s + row.e2e_s) // self.step_s)
        if number >= self._first:
            found = self._slices.get(number)
            if found is None:
                found = self._slices[number] = Slice()
            found.add(row)

    def points(self, last: int | None = None) -> list[Point]:
        """Those of the last so many slices in which there was anything, the oldest first."""
        first = self._first if last is None else self._first + self.length - last
        return [self._slices[number].at(number * self.step_s) for number in sorted(self._slices) if number >= first]

    def summary(self) -> Summary:
        """All of it; its percentiles are of the newest values, `measured` in number."""
        ordered = [self._slices[number] for number in sorted(self._slices, reverse=True)]
        errors: Counter[str] = Counter()
        for each in ordered:
            errors.update(each.errors)
        ttfts_s, tpots_s = _newest(each.ttfts_s for each in ordered), _newest(each.tpots_s for each in ordered)
        points = [self._slices[number].at(number * self.step_s) for number in sorted(self._slices)]
        sums = [sum(column) for column in zip(*(point[1:9] for point in points), strict=True)] or [0] * 8
        return Summary(
            total=Point._make([self._first * self.step_s, *sums, times_of(ttfts_s), times_of(tpots_s)]),
            measured=len(ttfts_s),
            errors=dict(errors.most_common()),
            by_deployment=_merged(each.by_deployment for each in ordered),
            by_key=_merged(each.by_key for each in ordered),
        )


def times_of(ordered_s: Sequence[float]) -> Times:
    """The percentiles of values in order, by nearest rank."""
    size = len(ordered_s)
    if not size:
        return Times()
    return Times(*(1000 * ordered_s[(size * q + 99) // 100 - 1] for q in QUANTILES))


def _newest(parts: Iterable[list[float]]) -> list[float]:
    values: list[float] = []
    for part in parts:
        values += part
        if len(values) >= MOST_VALUES:
            break
    values.sort()  # of runs that are in order already
    return values


def _merged(parts: Iterable[dict[str, Part]]) -> dict[str, Part]:
    merged: dict[str, Part] = {}
    for part in parts:
        for name, each in part.items():
            merged[name] = plus(merged.get(name, NO_PART), each)
    return merged
