"""The highest rate at which an SLO is kept: which rate to try next, and what the tries have shown.

From the first rate up by a factor while the SLO is shown to be kept (down if the first is not), then bisection between
the highest rate that was shown to keep it and the lowest that was not. A rate counts as kept only when the lower bound
of its attainment is at or above the target and the backlog did not grow: a finite run of an overloaded server can look
well until the queue bites.
"""

import math
from dataclasses import dataclass, field
from enum import Enum

from servery.bench.attainment import Attainment, wilson


class Verdict(Enum):
    """What a run at one rate has shown."""

    KEPT = "kept"
    BROKEN = "broken"  # even the upper bound is below the target, or the backlog grew
    UNCLEAR = "unclear"  # too few requests to tell: counts as not kept


@dataclass(frozen=True, slots=True)
class Trial:
    """One rate and what came of it."""

    rate: float
    attainment: Attainment
    verdict: Verdict
    is_backlog_growing: bool = False


def judge(attainment: Attainment, target: float, *, is_backlog_growing: bool) -> Verdict:
    """Whether a run keeps the SLO for the share `target`, as far as its requests tell."""
    if is_backlog_growing or attainment.high < target:
        return Verdict.BROKEN
    return Verdict.KEPT if attainment.low >= target else Verdict.UNCLEAR


def fewest_requests(target: float) -> int:
    """With fewer requests than this not even a run without any miss would show `target`."""
    low, high = 1, 1
    while wilson(high, high, high, -1) < target:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if wilson(middle, middle, middle, -1) >= target else (middle + 1, high)
    return high


def is_lost(misses: int, planned: int, target: float) -> bool:
    """Whether the SLO is broken even if all the rest of `planned` requests were good: the run may stop.

    It looks only at what the whole run would say, so that looking often does not make a false alarm more likely.
    """
    return wilson(planned - misses, planned, planned, +1) < target


@dataclass(slots=True)
class CapacitySearch:
    """Give each rate of `next_rate` a run and `tell` its trial; ends when the bracket is within `precision`."""

    start: float
    factor: float = 2.0
    precision: float = 0.05
    most_trials: int = 14
    trials: list[Trial] = field(default_factory=list)

    def tell(self, trial: Trial) -> None:
        """Note what a run at a rate has shown."""
        self.trials.append(trial)

    @property
    def kept(self) -> Trial | None:
        """The run at the highest rate shown to be kept, of those below every rate that was not."""
        kept = [one for one in self.trials if one.verdict is Verdict.KEPT and one.rate < self.broken_rate]
        return max(kept, key=lambda one: one.rate, default=None)

    @property
    def broken_rate(self) -> float:
        """The lowest rate that was not shown to be kept; infinite while all were."""
        return min((one.rate for one in self.trials if one.verdict is not Verdict.KEPT), default=math.inf)

    @property
    def next_rate(self) -> float | None:
        """The next rate to try; None when the search is over."""
        if not self.trials:
            return self.start
        if len(self.trials) >= self.most_trials:
            return None
        best, above = self.kept, self.broken_rate
        if best is None:
            return above / self.factor if above > self.start / 1024 else None
        if math.isinf(above):
            return best.rate * self.factor
        return math.sqrt(best.rate * above) if above > best.rate * (1 + self.precision) else None
