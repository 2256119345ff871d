"""The plots of several runs: what changes with the load."""

from collections.abc import Sequence

from servery.bench.page.axis import Axis
from servery.bench.page.plot import Plot
from servery.bench.report import Report, SloFigures

_MISS_COLOURS = {"error": 2, "ttft": 1, "tpot": 3, "e2e": 4, "stall": 5}


def rate_plots(reports: Sequence[Report], capacity: float | None = None) -> list[Plot]:
    """In the order of the page; runs are put in the order of their load."""
    runs = sorted(reports, key=load_of)
    judged = [(load_of(run), run.summary.slo) for run in runs]
    kept = [(at, slo) for at, slo in judged if slo is not None]
    plots = [_throughput(runs, kept, capacity)]
    if kept:
        name, _ = _x(runs)
        plots.append(_attainment(kept, name, capacity))
        if any(slo.misses for _, slo in kept):
            plots.append(_misses(kept, name))
    plots += [_latency(runs, "ttft_ms", "Time to first token"), _latency(runs, "tpot_ms", "Time per output token")]
    plots.append(_pareto(runs))
    if any(run.first_tokens is not None for run in runs):
        plots.append(_first_tokens(runs))
    if any(slo.dollars_per_million_good_tokens is not None for _, slo in kept):
        prices = _prices(runs[0])
        plots.append(_cost(kept, _x(runs)[0], prices))
        plots += [_cost_by_use(cost, prices) for cost in _at_capacity(kept, capacity)]
    return plots


def load_of(report: Report) -> float:
    """Offered requests a second in an open loop, clients in a closed one."""
    return report.offered_rate if report.offered_rate is not None else float(report.clients or 0)


def _x(reports: Sequence[Report]) -> tuple[str, Axis]:
    name = "offered requests/s" if reports[0].offered_rate is not None else "clients"
    return name, Axis.over([load_of(run) for run in reports], from_zero=True)


def _throughput(runs: Sequence[Report], kept: Sequence[tuple[float, SloFigures]], capacity: float | None) -> Plot:
    name, x = _x(runs)
    answered = [(load_of(run), run.summary.throughput.good_requests) for run in runs]
    y = Axis.over([*(value for _, value in answered), *((x.high,) if name != "clients" else ())], from_zero=True)
    plot = Plot("Throughput and goodput", name, "requests/s, with 95 % bounds" if kept else "requests/s", x, y)
    plot.intervals([(load_of(run), *_goodput_bounds(run)) for run in runs if run.summary.slo is not None], 1)
    plot.line(answered, 4, "answered", has_dots=True)
    plot.line([(at, slo.goodput) for at, slo in kept], 1, "within the SLO", has_dots=True)
    if capacity is not None:
        plot.mark("capacity", x=capacity)
    return plot


def _goodput_bounds(run: Report) -> tuple[float, float]:
    """The bounds of the share that kept the SLO, of the requests a second that were judged."""
    slo = run.summary.slo
    judged = slo.attainment.n / run.summary.wall_s if slo is not None else 0.0
    return (slo.attainment.low * judged, slo.attainment.high * judged) if slo is not None else (0.0, 0.0)


def _attainment(kept: Sequence[tuple[float, SloFigures]], name: str, capacity: float | None) -> Plot:
    x = Axis.over([at for at, _ in kept], from_zero=True)
    low = min(slo.attainment.low for _, slo in kept)
    plot = Plot("Share that kept the SLO", name, "share, with 95 % bounds", x, Axis(max(0.0, low - 0.02), 1.0))
    plot.intervals([(at, slo.attainment.low, slo.attainment.high) for at, slo in kept], 1)
    plot.line([(at, slo.attainment.share) for at, slo in kept], 1, has_dots=True)
    plot.mark("target", y=kept[0][1].target)
    if capacity is not None:
        plot.mark("capacity", x=capacity)
    return plot


def _misses(kept: Sequence[tuple[float, SloFigures]], name: str) -> Plot:
    """Which limit binds."""
    clauses = sorted({why for _, slo in kept for why in slo.misses})
    lines = {why: [(at, slo.misses.get(why, 0) / max(slo.attainment.n, 1)) for at, slo in kept] for why in clauses}
    y = Axis.over([share for line in lines.values() for _, share in line], from_zero=True)
    plot = Plot(
        "Why the SLO was missed", name, "share of requests", Axis.over([at for at, _ in kept], from_zero=True), y
    )
    for why, line in lines.items():
        plot.line(line, _MISS_COLOURS.get(why, 4), why if why == "error" else why.upper(), has_dots=True)
    return plot


def _latency(runs: Sequence[Report], column: str, title: str) -> Plot:
    name, x = _x(runs)
    lines: dict[str, list[tuple[float, float]]] = {}
    for share in ("p50", "p95", "p99"):
        stated = [(load_of(run), run.summary.latency[column].percentiles[share].value) for run in runs]
        lines[share] = [(at, value) for at, value in stated if value]
    plot = Plot(title, name, "milliseconds", x, Axis.over([v for line in lines.values() for _, v in line], is_log=True))
    for colour, (share, line) in enumerate(lines.items(), start=1):
        plot.line(line, colour, share, has_dots=True)
    return plot


def _pareto(runs: Sequence[Report]) -> Plot:
    """What all users get against what one gets."""
    points = []
    for run in runs:
        tpot = run.summary.latency["tpot_ms"].percentiles["p50"].value
        if tpot:
            points.append((1e3 / tpot, run.summary.throughput.output_tokens))
    x, y = Axis.over([at for at, _ in points], from_zero=True), Axis.over([of for _, of in points], from_zero=True)
    plot = Plot("Speed for one against speed for all", "tokens/s of one user (median)", "tokens/s of the server", x, y)
    plot.line(points, 1, has_dots=True)
    return plot


def _first_tokens(runs: Sequence[Report]) -> Plot:
    """What the time to first tokens was spent on, as the server tells it."""
    known = [(load_of(run), run.first_tokens) for run in runs]
    parts = {
        "waiting": [(at, of.queue_ms) for at, of in known if of is not None],
        "prompt": [(at, of.prefill_ms) for at, of in known if of is not None],
        "on the way": [(at, of.way_ms) for at, of in known if of is not None],
    }
    name, x = _x(runs)
    y = Axis.over([value for line in parts.values() for _, value in line], from_zero=True)
    plot = Plot("What the time to first tokens is spent on", name, "milliseconds, mean", x, y)
    for (part, line), colour in zip(parts.items(), (2, 1, 4), strict=True):
        plot.line(line, colour, part, has_dots=True)
    return plot


def _prices(run: Report) -> list[float]:
    """What a provider asks for a million output tokens, if that was told."""
    price = run.options.get("api_price") if isinstance(run.options, dict) else None
    return [price] if price is not None else []


def _at_capacity(kept: Sequence[tuple[float, SloFigures]], capacity: float | None) -> list[float]:
    """The cost of the run at the capacity, where there is one."""
    costs = (slo.dollars_per_million_good_tokens for at, slo in kept if at == capacity)
    return [cost for cost in costs if cost is not None]


def _cost_by_use(cost: float, prices: Sequence[float]) -> Plot:
    """A server that has less to do costs as much: its tokens are dearer by as much as it idles."""
    points = [(share, 100 * cost / share) for share in range(5, 101)]
    y = Axis.over([*(value for _, value in points), *prices], is_log=True)
    plot = Plot("Cost by use of the capacity", "% of the capacity", "$ per million good tokens", Axis(0.0, 100.0), y)
    plot.line([(float(share), value) for share, value in points], 1, "this server")
    for price in prices:
        plot.mark(f"provider: ${price:g}", y=price)
    return plot


def _cost(kept: Sequence[tuple[float, SloFigures]], name: str, prices: Sequence[float]) -> Plot:
    known = [(at, slo.dollars_per_million_good_tokens) for at, slo in kept]
    points = [(at, cost) for at, cost in known if cost is not None]
    y = Axis.over([*(cost for _, cost in points), *prices], from_zero=True)
    plot = Plot("Cost", name, "$ per million good tokens", Axis.over([at for at, _ in points], from_zero=True), y)
    plot.line(points, 1, has_dots=True)
    for price in prices:
        plot.mark(f"provider: ${price:g}", y=price)
    return plot
