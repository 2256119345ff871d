"""What every benchmark does with its figures: a dated JSON file, and one line of JSON as the last of its output."""

import dataclasses
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import orjson

from servery.bench import bandwidth
from servery.bench.machine import Provenance
from servery.bench.percentile import interval_ranks
from servery.engine.threads import usable_cores

FOLDER = Path(__file__).parent / "results"


def publish(name: str, figures: dict[str, Any]) -> Path:
    """Write `figures` with machine, commit, date and command to `results/NAME-DATE.json`; print them without `runs`."""
    provenance = dataclasses.asdict(Provenance.now())
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}-{provenance['date'][:19].replace(':', '')}.json"
    result = {"benchmark": name, **figures, "provenance": provenance}
    path.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    told = {key: value for key, value in result.items() if key not in ("runs", "provenance")}
    sys.stdout.write(orjson.dumps({**told, "file": path.name}).decode() + "\n")
    return path


def interleaved(names: Sequence[str], rounds: int, budget_s: float = math.inf) -> Iterator[tuple[int, str]]:
    """Every name once per round, each round beginning with another one, so that drift of the machine hits all alike.

    After `budget_s` seconds no further round begins; there is one at least.
    """
    end_s = monotonic() + budget_s
    for number in range(rounds):
        if number and monotonic() > end_s:
            return
        shift = number % len(names)
        for name in (*names[shift:], *names[:shift]):
            sys.stderr.write(f"round {number + 1} of {rounds}: {name}\n")
            yield number, name


def median_ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """The median of the ratios round by round, and the smallest and the largest of them."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Between what the true median lies with 95 % probability, whatever the noise: order statistics.

    Of less than six values the smallest and the largest, which hold it less often: five in 94 %, three in 75 %.
    """
    ordered = sorted(values)
    low, high = interval_ranks(len(ordered), 0.5)
    return ordered[low], ordered[high]


def ceiling() -> dict[str, Any]:
    """The memory bandwidth of this machine, all cores together."""
    return dataclasses.asdict(bandwidth.measure(usable_cores()))
