"""The plots of one run: how its latencies are spread, what happened when, how long prompts and answers were."""

import math
from collections.abc import Sequence
from itertools import pairwise

from servery.bench.backlog import in_flight
from servery.bench.page.axis import Axis
from servery.bench.page.plot import Plot
from servery.bench.report import Latency, Report, Row
from servery.bench.validity import lag_limit_s

_MOST_DOTS = 4000
_CORNERS = 400  # of a distribution's line: more are not seen
_PARTS = 30  # of a run, in each of which a rate is told
_FEWEST_FOR_RATES = 3 * _PARTS
_FEWEST_MOMENTS = 3


def run_plots(report: Report) -> list[Plot]:
    """In the order of the page; those without data are left out."""
    rows = report.samples
    limits = report.slo_limits
    plots = [
        _spread(rows, limits, "Time to first token", "ttft_s", "ttft"),
        _spread(rows, limits, "Time per output token", "tpot_s", "tpot"),
        _when(rows, limits),
        _rates(rows),
        _at_once(report),
        _memory(report),
        _late(report),
        _lengths(rows),
    ]
    return [plot for plot in plots if plot is not None]


def _spread(rows: Sequence[Row], limits: dict[str, float], title: str, column: Latency, clause: str) -> Plot | None:
    """The share of requests that took at most so long."""
    seconds = (row[column] for row in rows if row["error"] is None)
    values = sorted(1e3 * value for value in seconds if value is not None)
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


def _rates(rows: Sequence[Row]) -> Plot | None:
    """How many were due in each part of the run, and how many were answered in it."""
    ends = [row["due_s"] + row["e2e_s"] for row in rows if row["error"] is None and row["e2e_s"] is not None]
    first, last = (side((row["due_s"] for row in rows), default=0.0) for side in (min, max))
    last = max([last, *ends])
    if len(rows) < _FEWEST_FOR_RATES or last <= first:
        return None
    width = (last - first) / _PARTS
    lines = {
        name: [(first + index * width, count / width) for index, count in enumerate(_counted(times, first, width))]
        for name, times in (("due", [row["due_s"] for row in rows]), ("answered", ends))
    }
    y = Axis.over([rate for line in lines.values() for _, rate in line], from_zero=True)
    plot = Plot("Requests a second as the run went on", "seconds", "requests/s", Axis(first, last), y)
    for (name, line), colour in zip(lines.items(), (4, 1), strict=True):
        plot.steps([*line, (last, line[-1][1])], colour, name)
    return plot


def _counted(times: Sequence[float], first: float, width: float) -> list[int]:
    counts = [0] * _PARTS
    for time in times:
        counts[min(_PARTS - 1, int((time - first) / width))] += 1
    return counts


def _memory(report: Report) -> Plot | None:
    """How full the engine's KV memory was, and when sequences were pushed out of it."""
    moments = report.moments
    if len(moments) < _FEWEST_MOMENTS:
        return None
    share = [(one.at_s, 100 * one.kv_share) for one in moments]
    y = Axis.over([value for _, value in share], from_zero=True)
    plot = Plot("KV memory", "seconds", "% of the blocks", Axis.over([at for at, _ in share]), y)
    plot.line(share, 1, "in use")
    pushed = [
        (late.at_s, 100 * late.kv_share) for early, late in pairwise(moments) if late.preemptions > early.preemptions
    ]
    if pushed:
        plot.dots(pushed, 2, f"pushed out ({moments[-1].preemptions})", radius=3)
    return plot


def _late(report: Report) -> Plot | None:
    """How late this client was in sending each request of an open loop."""
    late = [(row["due_s"], 1e3 * (row["sent_s"] - row["due_s"])) for row in report.samples]
    if report.offered_rate is None or not late:
        return None
    limit_ms = 1e3 * lag_limit_s(report.slo_limits)
    y = Axis.over([*(value for _, value in late), limit_ms], from_zero=True)
    plot = Plot("Sent late", "seconds", "milliseconds", Axis.over([at for at, _ in late], from_zero=True), y)
    plot.dots(late[:: math.ceil(len(late) / _MOST_DOTS)], 4)
    plot.mark("limit at p99", y=limit_ms)
    return plot


def _at_once(report: Report) -> Plot | None:
    rows = report.samples
    starts = [row["due_s"] for row in rows]
    ends = [row["due_s"] + (row["e2e_s"] or 0.0) for row in rows]
    if len(starts) < 2:
        return None
    times = [min(starts) + index * (max(ends) - min(starts)) / _CORNERS for index in range(_CORNERS + 1)]
    counts = in_flight(starts, ends, times)
    y = Axis.over(counts, from_zero=True, is_whole=True)
    plot = Plot("Requests under way", "seconds", "requests", Axis.over(times), y)
    waiting = [(one.at_s, float(one.waiting)) for one in report.moments]
    plot.steps(list(zip(times, counts, strict=True)), 1, "all" if any(count for _, count in waiting) else "")
    if any(count for _, count in waiting):
        plot.steps(waiting, 2, "waiting in the engine")
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
    y = Axis.over([height for of, _, _ in bars for _, _, height in of], from_zero=True, is_whole=True)
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
