"""When requests are sent in an open loop: offsets in seconds from the start, decided before the first is sent.

A Poisson process is what many independent users make. Real traffic is burstier: the inter-arrival times of the Azure
code trace of 2023 have a coefficient of variation of 13, where a Poisson process has 1. Gamma-distributed gaps with
the same mean cover both: shape 1 is Poisson, below 1 comes in bursts, and without end it is a metronome.
"""

import math
import random
from dataclasses import dataclass

_FORMS = "poisson, constant, gamma:CV"


@dataclass(frozen=True, slots=True)
class Arrivals:
    """`rate` requests a second on average; the gaps between them have a coefficient of variation of `cv`."""

    rate: float
    cv: float = 1.0

    @classmethod
    def parse(cls, form: str, rate: float) -> "Arrivals":
        """Read `poisson`, `constant` or `gamma:CV`. Raises `ValueError` with what was given and the rule."""
        name, _, given = form.partition(":")
        if name in ("poisson", "constant") and not given:
            return cls(rate, 1.0 if name == "poisson" else 0.0)
        try:
            cv = float(given) if name == "gamma" else math.nan
        except ValueError:
            cv = math.nan
        if not 0 < cv <= 100:
            raise ValueError(f"{form!r} is no form of arrivals; write one of {_FORMS}, such as gamma:4 for bursts")
        return cls(rate, cv)

    def offsets(self, count: int, source: random.Random) -> list[float]:
        """The times of `count` arrivals, ascending, the first after one gap."""
        at, times = 0.0, []
        for _ in range(count):
            at += self._gap(source)
            times.append(at)
        return times

    def _gap(self, source: random.Random) -> float:
        if self.cv == 0:
            return 1 / self.rate
        shape = self.cv**-2
        return source.gammavariate(shape, 1 / (shape * self.rate))

    def __str__(self) -> str:
        name = {0.0: "constant", 1.0: "Poisson"}.get(self.cv, f"gamma, CV {self.cv:g}")
        return f"{float(f'{self.rate:.4g}'):g} requests/s, {name}"
