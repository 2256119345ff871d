"""The plots of one run: how its latencies are spread, what happened when, how long prompts and answers were."""

import math
from collections.abc import Sequence
from typing import Any

from servery.bench.backlog import in_flight
from servery.bench.page.axis import Axis
from servery.bench.page.plot import Plot
from servery.bench.report import Report

_MOST_DOTS = 4000
_CORNERS = 400  # of a distribution's line: more are not seen

Row = dict[str, Any]


def run_plots(report: Report) -> list[Plot]:
    """In the order of the page; those without data are left out."""
    rows = report.samples
    limits = report.slo_limits
    plots = [
        _spread(rows, limits, "Time to first token", "ttft_s", "ttft"),
        _spread(rows, limits, "Time per output token", "tpot_s", "tpot"),
        _when(rows, limits),
        _at_once(rows),
        _lengths(rows),
    ]
    return [plot for plot in plots if plot is not None]


def _spread(rows: Sequence[Row], limits: dict[str, float], title: str, column: str, clause: str) -> Plot | None:
    """The share of requests that took at most so long."""
    values = sorted(1e3 * row[column] for row in rows if row[column] is not None and row["error"] is None)
    if not values:
        return None
    limit = [1e3 * limits[clause]] if clause in limits else []
    axis = Axis.over([*(value for value in values if value > 0), *limit], is_log=True)
    plot = Plot(f"{title}, all requests", "milliseconds", "share of requests", axis, Axis(0.0, 1.0))
    stride = max(1, len(values) // _CORNERS)
    kept = sorted({*range(0, len(values), stride), len(values) - 1})
    plot.steps([(values[index], (index + 1) / len(values)) for index in kept], 1)
    for share in (0.5, 0.99):
        plot.mark(f"p{100 * share:.0f}", y=share)
    if limit:
        plot.mark("SLO", x=limit[0])
    return plot


def _when(rows: Sequence[Row], limits: dict[str, float]) -> Plot | None:
    """TTFT of each request at the time it was due; those that failed on the ground."""
    good = [(row["due_s"], 1e3 * row["ttft_s"]) for row in rows if row["error"] is None and row["ttft_s"] is not None]
    failed = [row["due_s"] for row in rows if row["error"] is not None]
    if not good:
        return None
    stride = math.ceil(len(good) / _MOST_DOTS)
    limit = [1e3 * limits["ttft"]] if "ttft" in limits else []
    y = Axis.over([*(value for _, value in good if value > 0), *limit], is_log=True)
    x = Axis.over([row["due_s"] for row in rows], from_zero=True)
    plot = Plot("TTFT as the run went on", "seconds", "TTFT ms", x, y)
    plot.dots(good[::stride], 1, "answered")
    if failed:
        plot.dots([(at, y.low) for at in failed], 2, "failed", radius=2.5)
    if limit:
        plot.mark("SLO", y=limit[0])
    return plot


def _at_once(rows: Sequence[Row]) -> Plot | None:
    starts = [row["due_s"] for row in rows]
    ends = [row["due_s"] + (row["e2e_s"] or 0.0) for row in rows]
    if len(starts) < 2:
        return None
    times = [min(starts) + index * (max(ends) - min(starts)) / _CORNERS for index in range(_CORNERS + 1)]
    counts = in_flight(starts, ends, times)
    y = Axis.over(counts, from_zero=True)
    plot = Plot("Requests under way", "seconds", "requests", Axis.over(times), y)
    plot.steps(list(zip(times, counts, strict=True)), 1)
    return plot


def _lengths(rows: Sequence[Row]) -> Plot | None:
    prompts = [row["prompt_tokens"] for row in rows if row["prompt_tokens"]]
    answers = [row["output_tokens"] for row in rows if row["output_tokens"]]
    if not prompts or not answers:
        return None
    axis = Axis.over([*prompts, *answers], is_log=True)
    bars = [
        (_binned(values, axis), colour, name)
        for values, colour, name in ((prompts, 1, "prompt"), (answers, 2, "answer"))
    ]
    y = Axis.over([height for of, _, _ in bars for _, _, height in of], from_zero=True)
    plot = Plot("Lengths", "tokens", "requests", axis, y)
    for of, colour, name in bars:
        plot.columns(of, colour, name)
    return plot


def _binned(values: Sequence[int], axis: Axis, bins: int = 28) -> list[tuple[float, float, float]]:
    """Counts in `bins` boxes of equal width on a logarithmic axis."""
    width = math.log(axis.high / axis.low) / bins
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int(math.log(value / axis.low) / width))] += 1
    edges = [axis.low * math.exp(index * width) for index in range(bins + 1)]
    return [(edges[index], edges[index + 1], count) for index, count in enumerate(counts) if count]
