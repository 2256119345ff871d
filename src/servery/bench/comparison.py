"""`servery bench compare`: two servers, or two models, with the same requests at the same times, in turn."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import uvloop
from rich.console import Console

from servery.bench.fitting import fitting
from servery.bench.options import BenchOptions
from servery.bench.output import put_out
from servery.bench.page import write_pair
from servery.bench.paired import ANSWERED, KEPT, SHARES, Comparison, Outcome, chance_of_less, compare, coverage_of
from servery.bench.percentile import quantile, smallest_n
from servery.bench.report import Latency, Report, Row, cut_short, faults_of
from servery.bench.run import one_run
from servery.bench.stop import Stop, Stopped
from servery.bench.target import Target, require_folder
from servery.bench.work import request_like

SCHEMA = "servery.bench.compare/1"
FEWEST_REPEATS = 3
OPENINGS = ("north", "south")  # what the prompts of A and of B begin with: none is in the other's prefix cache
_NAMES: dict[Latency, str] = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E"}

Column = Latency | Literal["answered", "kept"]


@dataclass(frozen=True, slots=True)
class CompareReport:
    """The figures of B against A; `chance_b_faster` is how often a request of B has the lower TTFT."""

    margin: float
    figures: dict[str, Comparison]
    chance_b_faster: float
    verdict: Outcome
    is_valid: bool
    a: list[Report] = field(repr=False)
    b: list[Report] = field(repr=False)
    schema: str = SCHEMA


def run(a: BenchOptions, b: BenchOptions, repeats: int, margin: float) -> int:
    """Measure and report; 0 unless B is worse or the runs are invalid. Raises `ClientError`, `OSError`."""
    require_folder(a.json_path)
    require_folder(a.html_path)
    report = uvloop.run(measure(a, b, repeats, margin))
    put_out(report, a, lambda console: show(report, console), lambda path: write(report, path))
    return 1 if report.verdict is Outcome.WORSE or not report.is_valid else 0


async def measure(a: BenchOptions, b: BenchOptions, repeats: int, margin: float) -> CompareReport:
    """A B, B A, A B ...: what drifts with time then weighs on both alike."""
    targets = await Target.open(a.target, request_like(a.work)), await Target.open(b.target, request_like(b.work))
    reports: tuple[list[Report], list[Report]] = ([], [])
    with closing(targets[0].control), closing(targets[1].control), Stop() as stop, suppress(Stopped):
        for side, repeat in _turns(repeats):
            stop.check()
            reports[side].append(await one_run(targets[side], _repeated((a, b)[side], side, repeat), stop))
    pairs = min(map(len, reports))
    if not pairs:
        raise KeyboardInterrupt  # ended before there was anything to compare
    first, second = (list(reports[side][:pairs]) for side in (0, 1))
    return judged(first, second if pairs == repeats else cut_short(second, stop), margin=margin, seed=a.work.seed)


def _turns(repeats: int) -> list[tuple[int, int]]:
    """Which side, and which of its repeats, one after the other."""
    return [(side, repeat) for repeat in range(repeats) for side in ((0, 1) if repeat % 2 == 0 else (1, 0))]


def _repeated(options: BenchOptions, side: int, repeat: int) -> BenchOptions:
    """Both sides have the same requests in the same repeat, but for the first word, and others in the next."""
    work = replace(options.work, seed=options.work.seed + 1000 * repeat, opening=OPENINGS[side])
    return replace(options, work=work)


def judged(a: list[Report], b: list[Report], *, margin: float, seed: int) -> CompareReport:
    """The verdict: worse if any figure is, better if one is and none is worse or open, the same if all are.

    Latencies are of good answers only, so the share of these is a figure, too: who refuses half is not the faster one.
    """
    told = {name: of for name, of in _figures(a, b).items() if all(_is_told(side, of.column) for side in (a, b))}
    together = partial(compare, margin=margin, seed=seed, coverage=coverage_of(len(told)))
    figures = {
        name: together(_values(a, of.column), _values(b, of.column), of.figure, is_less_better=of.is_less_better)
        for name, of in told.items()
    }
    first = [[value for repeat in _values(side, "ttft_s") for value in repeat if value is not None] for side in (a, b)]
    valid = not any(report.faults for report in [*a, *b])
    return CompareReport(margin, figures, chance_of_less(*first), _verdict(figures), valid, a, b)


def _verdict(figures: Mapping[str, Comparison]) -> Outcome:
    """Without a latency nothing but a loss can be told."""
    found = overall(list(figures.values()))
    return found if found is Outcome.WORSE or set(figures) - SHARES else Outcome.INCONCLUSIVE


def overall(figures: Sequence[Comparison]) -> Outcome:
    """One word for all figures."""
    found = {one.outcome for one in figures}
    if Outcome.WORSE in found:
        return Outcome.WORSE
    if Outcome.INCONCLUSIVE in found:
        return Outcome.INCONCLUSIVE
    return Outcome.BETTER if Outcome.BETTER in found else Outcome.SAME


@dataclass(frozen=True, slots=True)
class _Figure:
    column: Column
    figure: Callable[[Sequence[float]], float]
    is_less_better: bool = True


def _figures(a: list[Report], b: list[Report]) -> dict[str, _Figure]:
    """Medians, and the tails that there are enough requests for; attainment where there is an SLO."""
    n = min(sum(report.summary.good for report in side) for side in (a, b))
    shares = [q for q in (0.5, 0.95, 0.99) if n >= smallest_n(q)]
    found = {
        f"{name} p{100 * q:.0f}": _Figure(column, _quantile_of(q)) for column, name in _NAMES.items() for q in shares
    }
    found[ANSWERED] = _Figure("answered", _mean, is_less_better=False)
    if all(report.summary.slo is not None for report in [*a, *b]):
        found[KEPT] = _Figure("kept", _mean, is_less_better=False)
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _quantile_of(q: float) -> Callable[[Sequence[float]], float]:
    return lambda values: quantile(sorted(values), q)


def _values(reports: list[Report], column: Column) -> list[list[float | None]]:
    return [[_value(row, column) for row in report.samples] for report in reports]


def _is_told(reports: list[Report], column: Column) -> bool:
    """Whether each repeat has a value of it."""
    return all(any(value is not None for value in repeat) for repeat in _values(reports, column))


def _value(row: Row, column: Column) -> float | None:
    if column == "answered":
        return float(row["error"] is None)
    if column == "kept":
        return float(not row["misses"])
    return None if row["error"] is not None else row[column]


def conclusion(report: CompareReport) -> str:
    """The sentence that the comparison was made for."""
    faster = f"a request of B has the lower TTFT {report.chance_b_faster:.0%} of the time"
    return f"B is {report.verdict.value} (margin {report.margin:.0%}); {faster}"


def write(report: CompareReport, path: Path) -> None:
    """Write its page. Raises `OSError`."""
    write_pair(path, report.a, report.b, report.figures, conclusion(report), report.margin)


def show(report: CompareReport, console: Console) -> None:
    """One line per figure, then the verdict."""
    scaled = {name: (100, " %") if name in SHARES else (1e3, " ms") for name in report.figures}
    of = report.figures.values()
    columns = {
        "": list(report.figures),
        "A": [f"{scale * one.a:.2f}{unit}" for one, (scale, unit) in zip(of, scaled.values(), strict=True)],
        "B": [f"{scale * one.b:.2f}{unit}" for one, (scale, unit) in zip(of, scaled.values(), strict=True)],
        "B / A": [f"{one.ratio:.3f}" for one in of],
        "interval": [f"{one.low:.3f} to {one.high:.3f}" for one in of],
        "B is": [one.outcome.value.partition(" within")[0] for one in of],
    }
    console.print(fitting(console, columns, ("A", "B", "interval")))
    console.print(f"a request of B has the lower TTFT {report.chance_b_faster:.0%} of the time")
    console.print(f"B is {report.verdict.value} (margin {report.margin:.0%})", style="bold")
    for fault in faults_of([*report.a, *report.b]):
        console.print(f"INVALID: {fault}", markup=False, style="bold red")
