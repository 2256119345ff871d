"""What all measurements have in common: figures that can be written down, and what claims read out of them."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.claims.claim import Reading
from benchmarks.claims.stage import Stage
from servery.bench.page.plot import Plot

Figures = Mapping[str, Any]
Readings = dict[str, list[Reading]]


def no_plots(figures: Figures) -> dict[str, Plot]:
    """For measurements whose figures say it all."""
    return {}


class Unmeasurable(Exception):
    """What the machine was doing spoils this measurement; the others go on. The message says what."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """`measure` gives figures that JSON can hold, in about `budget_s` at full size; `readings` finds in them what was
    claimed, by the keys of claims; `plots` draws them, by the names of files.

    `setting` says what was measured. With `is_served` it starts servers, which take the cores they find.
    """

    key: str
    budget_s: float
    setting: str
    measure: Callable[[Stage], dict[str, Any]]
    readings: Callable[[Figures], Readings]
    plots: Callable[[Figures], dict[str, Plot]] = no_plots
    is_served: bool = False


def spread(of: str, values: Sequence[float]) -> Reading:
    """The median of some rounds, with the smallest and the largest."""
    return Reading(of, statistics.median(values), min(values), max(values))


def ratio(of: str, found: Mapping[str, float]) -> Reading:
    """A `median_ratio` as a reading."""
    return Reading(of, found["median"], found["min"], found["max"])
