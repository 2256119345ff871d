"""Memory under steady load for a long time: how much more the gateway holds per hour, and how sure that is."""

import itertools
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gateway.gateway import Gateway, running
from benchmarks.gateway.rig import Load, Rig

_SEGMENT_S = 15.0
_WARM_SHARE = 0.2  # of the time, left out: pools fill and what is made once is made


@dataclass(frozen=True, slots=True)
class Slope:
    """Megabytes per hour, and half the width of its 95 % interval."""

    mb_per_hour: float
    half_width: float

    @property
    def is_zero(self) -> bool:
        """Whether no growth can be told from none."""
        return abs(self.mb_per_hour) <= self.half_width


def slope(hours: Sequence[float], megabytes: Sequence[float]) -> Slope:
    """By least squares; the interval takes neighbours' errors as alike as their correlation says (AR(1))."""
    line = statistics.linear_regression(hours, megabytes)
    errors = [y - line.slope * x - line.intercept for x, y in zip(hours, megabytes, strict=True)]
    spread = sum((x - statistics.fmean(hours)) ** 2 for x in hours)
    square = sum(error * error for error in errors)
    likeness = sum(a * b for a, b in itertools.pairwise(errors)) / square if square else 0.0
    likeness = min(max(likeness, 0.0), 0.95)
    deviation = math.sqrt(square / max(1, len(hours) - 2) / spread) if spread else 0.0
    return Slope(line.slope, 1.96 * deviation * math.sqrt((1 + likeness) / (1 - likeness)))


def soak(
    gateway: Gateway, rig: Rig, folder: Path, *, minutes: float, cores: Sequence[int], upstream: int, rate: float
) -> dict[str, Any]:
    """Whole answers at `rate` a second and streams at a quarter of it, in turns; what was held meanwhile."""
    samples: list[tuple[float, float]] = []
    answered = bad = 0
    with rig.upstream(upstream), running(gateway, cores[0], folder) as alive:
        began_s, before_s = time.monotonic(), alive.cpu_s
        while (passed_s := time.monotonic() - began_s) < 60 * minutes:
            is_stream = len(samples) % 2 == 1
            load = Load(is_stream=is_stream, rate=rate / 4 if is_stream else rate, warm_s=0, seconds=_SEGMENT_S)
            found = rig.run(load, gateway.port, gateway.request(is_stream=is_stream))
            answered, bad = answered + found["answered"], bad + found["bad"] + found["unanswered"]
            samples.append((passed_s / 3600, alive.rss_mb))
            sys.stderr.write(f"{passed_s / 60:.1f} min: {samples[-1][1]:.1f} MB\n")
        share = (alive.cpu_s - before_s) / (time.monotonic() - began_s)
    kept = samples[int(_WARM_SHARE * len(samples)) :]
    found_slope = slope([each[0] for each in kept], [each[1] for each in kept])
    return {
        "minutes": minutes,
        "answered": answered,
        "bad": bad,
        "core_share": share,
        "rss_mb": {"first": kept[0][1], "last": kept[-1][1], "most": max(each[1] for each in samples)},
        "mb_per_hour": found_slope.mb_per_hour,
        "half_width": found_slope.half_width,
        "runs": samples,
    }
