"""`servery bench goodput`: search the highest rate at which the SLO is kept, one run per rate."""

import math
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

import uvloop
from rich.console import Console

from servery.bench.arrivals import Arrivals
from servery.bench.capacity import CapacitySearch, Trial, Verdict, fewest_requests, is_lost, judge
from servery.bench.errors import ClientError
from servery.bench.fitting import fitting
from servery.bench.load import GoesOn
from servery.bench.options import BenchOptions
from servery.bench.output import put_out
from servery.bench.page import write_page
from servery.bench.report import Report, cut_short, dollars, faults_of
from servery.bench.run import one_run
from servery.bench.sample import Sample
from servery.bench.slo import BenchSlo
from servery.bench.stop import Stop, Stopped
from servery.bench.sweep import at_rate
from servery.bench.table import tail
from servery.bench.target import Target, require_folder
from servery.bench.work import request_like

SCHEMA = "servery.bench.goodput/1"


class TooFewRequests(ClientError):
    """A run of this many requests cannot show the attainment asked for."""

    kind = "too_few_requests"


@dataclass(frozen=True, slots=True)
class CapacityReport:
    """The highest rate that was shown to keep the SLO (None: not even the lowest tried), and every run.

    `broken_rate` is the lowest rate that was not shown to keep it (None: all did): the capacity lies between the two.
    """

    capacity: float | None
    broken_rate: float | None
    goodput: float | None
    dollars_per_million_good_tokens: float | None
    is_valid: bool
    trials: list[Trial]
    runs: list[Report] = field(repr=False)
    schema: str = SCHEMA


def run(options: BenchOptions, search: CapacitySearch) -> int:
    """Search and report; 0 if a rate was found, else 1. Raises `ClientError` or `OSError` if it cannot begin."""
    require_folder(options.json_path)
    require_folder(options.html_path)
    report = uvloop.run(measure(options, search))
    put_out(
        report,
        options,
        lambda console: show(report, console),
        lambda path: write_page(path, report.runs, conclusion=conclusion(report), capacity=report.capacity),
    )
    return 0 if report.capacity is not None and report.is_valid else 1


async def measure(options: BenchOptions, search: CapacitySearch) -> CapacityReport:
    """The whole search. Raises `TooFewRequests`, and what the first request met."""
    slo = options.slo
    if slo is None:
        raise ClientError("goodput needs an SLO, such as --slo ttft:200ms,tpot:50ms.")
    if options.load.requests < (needed := fewest_requests(slo.attainment)):
        raise TooFewRequests(
            f"{options.load.requests} requests cannot show that {slo.attainment:.4g} of them keep the SLO, not even if "
            f"none missed; ask for at least {needed} with --requests, or for less with --attainment."
        )
    form = options.load.arrivals or Arrivals(search.start)
    target = await Target.open(options.target, request_like(options.work))
    runs: list[Report] = []
    with closing(target.control), Stop() as stop, suppress(Stopped):
        while (rate := search.next_rate) is not None:
            stop.check()
            step = at_rate(options, replace(form, rate=rate), len(runs))
            report = await one_run(target, step, stop, _goes_on(options, slo))
            runs.append(report)
            search.tell(_trial(rate, report, slo))
            if report.faults:
                break  # a client that lags at this rate would lag at a higher one, and what it measured is not the server
    return _capacity(search, runs if search.next_rate is None else cut_short(runs, stop))


def _goes_on(options: BenchOptions, slo: BenchSlo) -> GoesOn:
    """Stop a run as soon as nothing that may follow could save it."""
    misses = 0

    def goes_on(sample: Sample) -> bool:
        nonlocal misses
        misses += bool(slo.misses(sample))
        return not is_lost(misses, options.load.requests, slo.attainment)

    return goes_on


def _trial(rate: float, report: Report, slo: BenchSlo) -> Trial:
    figures = report.summary.slo
    if figures is None:
        raise ClientError("The run was summarized without an SLO.")
    growing = figures.is_backlog_growing
    verdict = judge(figures.attainment, slo.attainment, is_backlog_growing=growing)
    if verdict is Verdict.KEPT and report.faults:
        verdict = Verdict.UNCLEAR  # an invalid run shows nothing
    return Trial(rate, figures.attainment, verdict, growing)


def _capacity(search: CapacitySearch, runs: list[Report]) -> CapacityReport:
    best = search.kept
    figures = runs[search.trials.index(best)].summary.slo if best is not None else None
    return CapacityReport(
        capacity=best.rate if best is not None else None,
        broken_rate=search.broken_rate if math.isfinite(search.broken_rate) else None,
        goodput=figures.goodput if figures is not None else None,
        dollars_per_million_good_tokens=figures.dollars_per_million_good_tokens if figures is not None else None,
        is_valid=not any(run.faults for run in runs),
        trials=list(search.trials),
        runs=runs,
    )


def show(report: CapacityReport, console: Console) -> None:
    """Print the runs and what they show."""
    pairs = sorted(zip(report.trials, report.runs, strict=True), key=lambda pair: pair[0].rate)
    trials = [trial for trial, _ in pairs]
    columns = {
        "rate /s": [f"{trial.rate:.3g}" for trial in trials],
        "verdict": [_word(trial, one) for trial, one in pairs],
        "kept the SLO": [f"{trial.attainment.share:.2%}" for trial in trials],
        "at least": [f"{trial.attainment.low:.2%}" for trial in trials],
        "requests": [str(trial.attainment.n) for trial in trials],
        "TTFT ms": [tail(one.summary.latency["ttft_ms"]) for _, one in pairs],
        "TPOT ms": [tail(one.summary.latency["tpot_ms"]) for _, one in pairs],
    }
    console.print(fitting(console, columns, ("requests", "TPOT ms", "TTFT ms", "kept the SLO")))
    console.print(conclusion(report), markup=False)
    for fault in faults_of(report.runs):
        console.print(f"INVALID: {fault}", markup=False, style="bold red")


def _word(trial: Trial, run: Report) -> str:
    if run.faults:
        return "invalid"
    return "requests pile up" if trial.is_backlog_growing else trial.verdict.value


def conclusion(report: CapacityReport) -> str:
    """The sentence that the search was made for."""
    if report.capacity is None:
        return f"no rate was shown to keep the SLO; the lowest tried was {min(one.rate for one in report.trials):.3g}/s"
    found = f"the SLO is kept at {report.capacity:.3g} requests/s (goodput {report.goodput:.3g}/s)"
    if report.broken_rate is None:
        found += "; no higher rate was tried, so the capacity may be above"
    else:
        clear = any(one.verdict is Verdict.BROKEN and one.rate == report.broken_rate for one in report.trials)
        found += f" and {'broken' if clear else 'not shown to be kept'} at {report.broken_rate:.3g}/s"
    cost = report.dollars_per_million_good_tokens
    return found + (f"; {dollars(cost)} per million good output tokens" if cost is not None else "")
