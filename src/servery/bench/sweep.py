"""`servery bench sweep`: the same work at several rates, or with several numbers of clients, one run each."""

from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

import uvloop
from rich.console import Console

from servery.bench.arrivals import Arrivals
from servery.bench.fitting import fitting
from servery.bench.options import BenchOptions
from servery.bench.output import put_out
from servery.bench.page import write_page
from servery.bench.percentile import Distribution, smallest_n
from servery.bench.report import Report, cut_short
from servery.bench.run import one_run
from servery.bench.stop import Stop, Stopped
from servery.bench.table import tail
from servery.bench.target import Target, require_folder
from servery.bench.work import request_like

SCHEMA = "servery.bench.sweep/1"


@dataclass(frozen=True, slots=True)
class SweepReport:
    """The runs, in the order in which they were made."""

    runs: list[Report] = field(repr=False)
    schema: str = SCHEMA


def at_rate(options: BenchOptions, arrivals: Arrivals, index: int) -> BenchOptions:
    """The options of run `index`: other prompts than those before, whose prefixes are cached."""
    return _numbered(replace(options, load=replace(options.load, arrivals=arrivals, concurrency=None)), index)


def with_clients(options: BenchOptions, concurrency: int, index: int) -> BenchOptions:
    """The options of run `index`, in a closed loop of `concurrency` clients."""
    return _numbered(replace(options, load=replace(options.load, concurrency=concurrency)), index)


def _numbered(options: BenchOptions, index: int) -> BenchOptions:
    """Only the first run warms up; each has a seed of its own."""
    warmup = options.load.warmup if index == 0 else 0
    work = replace(options.work, seed=options.work.seed + 1000 * index)
    return replace(options, work=work, load=replace(options.load, warmup=warmup))


def run(steps: list[BenchOptions]) -> int:
    """Measure each and report; 0 if all runs are valid and without errors, else 1."""
    first = steps[0]
    require_folder(first.json_path)
    require_folder(first.html_path)
    report = uvloop.run(measure(steps))
    put_out(report, first, lambda console: show(report, console), lambda path: write_page(path, report.runs))
    return 1 if any(one.summary.errors or one.faults for one in report.runs) else 0


async def measure(steps: list[BenchOptions]) -> SweepReport:
    """One run after the other on the same server; Ctrl-C ends it with those there are. Raises what the first request met."""
    first = steps[0]
    target = await Target.open(first.target, request_like(first.work))
    runs: list[Report] = []
    with closing(target.control), Stop() as stop, suppress(Stopped):
        for step in steps:
            stop.check()
            runs.append(await one_run(target, step, stop))
    return SweepReport(runs if len(runs) == len(steps) else cut_short(runs, stop))


def show(report: SweepReport, console: Console) -> None:
    """One line per run."""
    first = report.runs[0]
    said = f"{len(report.runs)} runs, the first: {first.summary.load}; latencies in ms"
    console.print(f"{first.model}: {said}", markup=False)
    rows = [_cells(one) for one in report.runs]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    console.print(fitting(console, columns, ("TPOT tail", "tokens/s", "TTFT tail", "SLO")))
    for one in report.runs:
        for fault in one.faults:
            console.print(f"INVALID: {one.summary.load}: {fault}", markup=False, style="bold red")


def _cells(report: Report) -> dict[str, str]:
    """What is told of a run, by the head of its column; latencies in milliseconds."""
    summary = report.summary
    ttft, tpot = (summary.latency[name] for name in ("ttft_ms", "tpot_ms"))
    kept = f"{summary.slo.attainment.share:.1%}" if summary.slo is not None else "-"
    rates = summary.throughput
    return {
        "load": _load(report),
        "good/s": f"{rates.good_requests:.2f}",
        "tokens/s": f"{rates.output_tokens:.1f}",
        "TTFT p50": _median(ttft),
        "TTFT tail": _tail(ttft),
        "TPOT p50": _median(tpot),
        "TPOT tail": _tail(tpot),
        "SLO": kept,
        "failed": str(sum(summary.errors.values())),
    }


def _load(report: Report) -> str:
    """As short as a table needs it: what all runs have in common is said above it."""
    return f"{report.offered_rate:g}/s" if report.offered_rate is not None else f"{report.clients} clients"


def _median(of: Distribution) -> str:
    value = of.percentiles["p50"].value
    return f"n < {smallest_n(0.5)}" if value is None else f"{value:.1f}"


def _tail(of: Distribution) -> str:
    return tail(of) if of.n >= smallest_n(0.9) else "-"
