"""Whether a process's memory is flat: a slope that outliers do not bend, and its interval. Pure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_Z_95 = 1.96


@dataclass(frozen=True, slots=True)
class Slope:
    """Bytes per second: the median of all pairs' slopes, and between what the true one lies with 95 % probability."""

    median: float
    low: float
    high: float


def slope(at_s: Sequence[float], values: Sequence[float]) -> Slope:
    """The slope of Theil (1950) and Sen (1968), with Sen's interval; raises `ValueError` for less than three values."""
    count = len(values)
    if count < 3:
        raise ValueError(f"{count} values have no slope; give at least 3")
    slopes = sorted((values[j] - values[i]) / (at_s[j] - at_s[i]) for i in range(count) for j in range(i + 1, count))
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)  # of Kendall's S
    low = max(0, math.floor((len(slopes) - _Z_95 * deviation) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + _Z_95 * deviation) / 2))
    return Slope(statistics.median(slopes), slopes[low], slopes[high])
