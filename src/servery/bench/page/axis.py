"""A scale from values to pixels, and where its ticks are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

_FEWEST = 3  # ticks by which a reader can tell values


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`, evenly or by powers of ten; `low` < `high`, and above 0 where it is logarithmic.

    `is_whole`: of counts, which have no halves.
    """

    low: float
    high: float
    is_log: bool = False
    is_whole: bool = False

    @classmethod
    def over(
        cls, values: Iterable[float], *, is_log: bool = False, from_zero: bool = False, is_whole: bool = False
    ) -> "Axis":
        """Wide enough for all values; where there are none, from 0 to 1."""
        known = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)]
        if not known:
            return cls(0.1, 1.0, is_log=True) if is_log else cls(0.0, 1.0, is_whole=is_whole)
        low, high = min(known), max(known)
        if is_log:
            return cls(low / 1.15, max(high, low * 1.5) * 1.15, is_log=True)
        low = 0.0 if from_zero else low
        return cls(low, high + (high - low or abs(high) or 1.0) * 0.05, is_whole=is_whole)

    def place(self, value: float) -> float:
        """Where `value` lies, 0 at `low` and 1 at `high`; outside it is cut off at the edge."""
        if self.is_log:
            value = max(value, self.low)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, share))

    @property
    def ticks(self) -> list[float]:
        """Three to eight round values inside, or powers of ten and their fifths and halves, where there are enough.

        Of counts there may be fewer.
        """
        return self._log_ticks() if self.is_log else self._even_ticks()

    def _even_ticks(self) -> list[float]:
        raw = (self.high - self.low) / 7
        power = 10 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
        step = math.ceil(step) if self.is_whole else step
        first = math.ceil(self.low / step - 1e-9)
        return [round(index * step, 12) for index in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _log_ticks(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if len(powers) <= 4 else (1,)
        found = [step * 10.0**power for power in powers for step in steps]
        inside = [tick for tick in found if self.low <= tick <= self.high]
        return inside if len(inside) >= _FEWEST else self._even_ticks()


def shown(value: float) -> str:
    """A tick's label."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"
