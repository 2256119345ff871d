"""Goodput: the highest rate that keeps an SLO, and what happens above it."""

import asyncio
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.claims.claim import Reading
from benchmarks.claims.measurement import Figures, Measurement, Readings, Unmeasurable
from benchmarks.claims.stage import Stage
from conformance.server import serving
from servery.bench.capacity import CapacitySearch
from servery.bench.goodput import measure as search
from servery.bench.options import BenchOptions, LoadOptions, TargetOptions, WorkOptions
from servery.bench.page.axis import Axis
from servery.bench.page.plot import Plot
from servery.bench.report import Report
from servery.bench.run import measure as run
from servery.bench.slo import BenchSlo
from servery.bench.span import Span

SLO = "ttft:500ms,tpot:50ms"  # what the texts ask of a chat


def _measure(stage: Stage) -> dict[str, Any]:
    slo = stage.pick(BenchSlo.parse(SLO, 0.9), BenchSlo.parse("ttft:10s,tpot:10s", 0.5))
    with serving(f"model={stage.grown}", "--no-prefix-cache") as server:
        return asyncio.run(_search(server.url, slo, stage))


async def _search(url: str, slo: BenchSlo, stage: Stage) -> dict[str, Any]:
    options = BenchOptions(
        target=TargetOptions(url=url),
        work=WorkOptions(
            prompt_tokens=stage.pick(Span(32, 160), Span(8, 12)), output_tokens=stage.pick(Span(32, 96), Span(2, 4))
        ),
        load=LoadOptions(requests=stage.pick(110, 4), warmup=stage.pick(8, 1)),
        slo=slo,
        measures_bandwidth=False,
    )
    found = await search(options, CapacitySearch(stage.pick(4.0, 50.0), precision=0.15, most_trials=stage.pick(6, 1)))
    faults = [fault for report in found.runs for fault in report.faults]
    if faults and found.capacity is None and not stage.is_tiny:  # tiny figures mean nothing anyway
        raise Unmeasurable(faults[0])
    flood = await run(_flood(options, stage))
    return {
        "slo": str(slo),
        "capacity": found.capacity,
        "broken_rate": found.broken_rate,
        "is_valid": found.is_valid,
        "trials": [_trial(report, slo) for report in found.runs],
        "flood_per_s": flood.summary.throughput.good_requests,
    }


def _flood(options: BenchOptions, stage: Stage) -> BenchOptions:
    """Clients that each send their next request at once."""
    load = LoadOptions(requests=stage.pick(160, 4), warmup=stage.pick(32, 1), concurrency=stage.pick(32, 2))
    return BenchOptions(target=options.target, work=options.work, load=load, slo=options.slo, measures_bandwidth=False)


def _trial(report: Report, slo: BenchSlo) -> dict[str, Any]:
    figures = report.summary.slo
    assert figures is not None, f"no figures for {slo}"
    ttft = [1e3 * row["ttft_s"] for row in report.samples if row["ttft_s"] is not None]
    return {
        "rate": report.offered_rate,
        "share": figures.attainment.share,
        "goodput": figures.goodput,
        "answered": report.summary.throughput.good_requests,
        "ttft_p50_ms": statistics.median(ttft),
        "ttft_p95_ms": statistics.quantiles(ttft, n=20, method="inclusive")[-1],
        "requests": figures.attainment.n,
        "misses": dict(figures.misses),
        "faults": list(report.faults),
    }


def _readings(figures: Figures) -> Readings:
    trials = sorted(figures["trials"], key=lambda each: float(each["rate"]))
    kept = [each for each in trials if figures["capacity"] is not None and each["rate"] <= figures["capacity"]]
    above = [each for each in trials if each not in kept]
    capacity = figures["capacity"] or 0.0
    best = kept[-1] if kept else trials[0]
    worse = above[-1] if above else trials[-1]
    return {
        "goodput": [Reading("within the SLO", capacity), Reading("32 clients without a pause", figures["flood_per_s"])],
        "latency-spikes": [
            Reading(f"{worse['rate']:.3g}/s over {best['rate']:.3g}/s", worse["ttft_p95_ms"] / best["ttft_p95_ms"])
        ],
        "averages-hide-tails": [Reading(f"{best['rate']:.3g}/s", best["ttft_p95_ms"] / best["ttft_p50_ms"])],
    }


def _plots(figures: Figures) -> dict[str, Plot]:
    trials: Sequence[dict[str, Any]] = sorted(figures["trials"], key=lambda each: float(each["rate"]))
    rates = [each["rate"] for each in trials]
    plot = Plot(
        "Throughput and goodput",
        "offered requests/s",
        "requests/s",
        Axis.over(rates, from_zero=True),
        Axis.over([*(each["answered"] for each in trials), *rates], from_zero=True),
    )
    plot.line([(each["rate"], each["answered"]) for each in trials], 4, "answered", has_dots=True)
    plot.line([(each["rate"], each["goodput"]) for each in trials], 1, "within the SLO", has_dots=True)
    if figures["capacity"] is not None:
        plot.mark("capacity", x=figures["capacity"])
    return {"goodput": plot}


GOODPUT = Measurement(
    "goodput",
    140.0,
    "The search of `servery bench goodput` on a server of the 148M model: TTFT 500 ms and TPOT 50 ms for 90 % of the requests; prompts of "
    "32 to 160 tokens, answers of 32 to 96, Poisson arrivals, latency from when a request was due, 110 requests at each rate.",
    _measure,
    _readings,
    _plots,
    is_served=True,
)
