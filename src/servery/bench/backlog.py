"""Whether requests pile up: the number in flight at the times of arrival, and its trend.

At a rate below capacity that number wanders around a level; above it, it grows for as long as the run lasts.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence

_BLOCKS = 10
_FEWEST = 50  # requests: fewer make no levels, but single comings and goings
_T_99 = 2.896  # Student's t, 8 degrees of freedom, one-sided 99 %
_MATERIAL = 0.5  # growth over the run, as a share of the mean, below which a trend does not matter


def in_flight(starts: Sequence[float], ends: Sequence[float], at: Sequence[float]) -> list[int]:
    """How many of the intervals from `starts` to `ends` hold each of the times `at`."""
    begun, over = sorted(starts), sorted(ends)
    return [bisect_right(begun, time) - bisect_right(over, time) for time in at]


def is_growing(starts: Sequence[float], ends: Sequence[float]) -> bool:
    """Whether the number in flight has a trend upwards that chance does not explain and that matters.

    Least squares over the means of ten equal parts of the time in which requests came.
    """
    if len(starts) < _FEWEST:
        return False
    first, last = min(starts), max(starts)
    step = (last - first) / (8 * _BLOCKS)
    counts = in_flight(starts, ends, [first + (index + 0.5) * step for index in range(8 * _BLOCKS)])
    levels = [math.fsum(counts[8 * block : 8 * block + 8]) / 8 for block in range(_BLOCKS)]
    return _has_trend(levels)


def _has_trend(levels: Sequence[float]) -> bool:
    n, mean = len(levels), math.fsum(levels) / len(levels)
    offsets = [index - (n - 1) / 2 for index in range(n)]
    spread = sum(offset * offset for offset in offsets)
    slope = sum(offset * level for offset, level in zip(offsets, levels, strict=True)) / spread
    residual = sum((level - mean - slope * offset) ** 2 for offset, level in zip(offsets, levels, strict=True))
    error = math.sqrt(residual / (n - 2) / spread)
    return slope * n > max(1.0, _MATERIAL * mean) and slope > _T_99 * error
