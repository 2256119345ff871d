"""Goodput: the highest rate that keeps an SLO, and what happens above it."""

import asyncio
from collections.abc import Sequence
from typing import Any

from benchmarks.claims.claim import Reading
from benchmarks.claims.measurement import Figures, Measurement, Readings
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

SLO = "chat"


def _measure(stage: Stage) -> dict[str, Any]:
    slo = BenchSlo.parse(SLO) if not stage.is_tiny else BenchSlo.parse("ttft:10s,tpot:10s", 0.5)
    with serving(f"amuse={stage.amuse}", "--no-prefix-cache") as server:
        return asyncio.run(_search(server.url, slo, stage))


async def _search(url: str, slo: BenchSlo, stage: Stage) -> dict[str, Any]:
    options = BenchOptions(
        target=TargetOptions(url=url),
        work=WorkOptions(
            prompt_tokens=stage.pick(Span(50, 350), Span(8, 12)), output_tokens=stage.pick(Span(50, 150), Span(2, 4))
        ),
        load=LoadOptions(requests=stage.pick(450, 4), warmup=stage.pick(16, 1)),
        slo=slo,
        measures_bandwidth=False,
    )
    found = await search(options, CapacitySearch(stage.pick(16.0, 50.0), precision=0.15, most_trials=stage.pick(8, 1)))
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
    """As many clients as the engine takes sequences, each with the next request at once."""
    load = LoadOptions(requests=stage.pick(300, 4), warmup=stage.pick(16, 1), concurrency=stage.pick(64, 2))
    return BenchOptions(target=options.target, work=options.work, load=load, slo=options.slo, measures_bandwidth=False)


def _trial(report: Report, slo: BenchSlo) -> dict[str, Any]:
    figures = report.summary.slo
    assert figures is not None, f"no figures for {slo}"
    ttft = report.summary.latency["ttft_ms"].percentiles
    return {
        "rate": report.offered_rate,
        "share": figures.attainment.share,
        "goodput": figures.goodput,
        "answered": report.summary.throughput.good_requests,
        "ttft_p50_ms": ttft["p50"].value,
        "ttft_p95_ms": ttft["p95"].value,
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
        "goodput": [Reading("within the SLO", capacity), Reading("at most, whatever it takes", figures["flood_per_s"])],
        "latency-spikes": [
            Reading(
                f"{worse['rate']:.3g}/s over {best['rate']:.3g}/s",
                _over(worse["ttft_p95_ms"], best["ttft_p95_ms"]),
            )
        ],
        "averages-hide-tails": [Reading(f"{best['rate']:.3g}/s", _over(best["ttft_p95_ms"], best["ttft_p50_ms"]))],
    }


def _over(above: float | None, below: float | None) -> float:
    """Their ratio; 1 where a run was too short to tell."""
    return above / below if above and below else 1.0


def _plots(figures: Figures) -> dict[str, Plot]:
    trials: Sequence[dict[str, Any]] = sorted(figures["trials"], key=lambda each: float(each["rate"]))
    rates = [each["rate"] for each in trials]
    plot = Plot(
        "Throughput and goodput of amuse",
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
    110.0,
    "`servery serve amuse` and `servery bench goodput` on the same two cores: prompts of 50 to 350 tokens, answers of 50 to 150, Poisson "
    "arrivals, latency counted from when a request was due, 450 requests at each rate.",
    _measure,
    _readings,
    _plots,
    is_served=True,
)
