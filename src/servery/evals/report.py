"""Runs, comparisons and verdicts as tables for people."""

from collections.abc import Callable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from servery.evals.certificate import Certificate
from servery.evals.compare import Comparison, Flip, StratumComparison, StratumScore
from servery.evals.computed import Computed
from servery.evals.estimate import Estimate
from servery.evals.fidelity import FidelityReport, StratumFidelity
from servery.evals.statistics import Interval

_SHOWN = 60  # characters of an answer in the list of flips


def show_scores(rows: list[StratumScore], console: Console) -> None:
    """The accuracy of each stratum with its 95 % interval."""
    table = _table("stratum", "n", "right", "accuracy", "95 % interval", "no answer")
    for row in rows:
        share = "-" if row.accuracy is None else f"{row.accuracy:.1%}"
        table.add_row(row.stratum, str(row.n), str(row.right), share, _interval(row.interval), str(row.missing or "-"))
    console.print(table)


def show_comparison(found: Comparison, console: Console, flips: int) -> None:
    """Each stratum's difference, and the first `flips` of the tasks on which the two differ."""
    table = _table("stratum", "n", "base", "cand.", "diff.", "95 %", "p", "lost", "gained")
    for row in (*found.strata, found.whole):
        table.add_row(*_cells(row))
    console.print(table)
    if found.whole.missing:
        console.print(f"{found.whole.missing} tasks have no answer from both and are left out")
    _show_computed(found.baseline, found.candidate, console)
    for flip in found.flips[:flips]:
        console.print(_line(flip), markup=False, highlight=False, soft_wrap=True)
    if len(found.flips) > flips:
        console.print(f"{len(found.flips) - flips} more flips; --flips shows more, --json has all")


def show_certificate(found: Certificate, console: Console) -> None:
    """The verdict on each stratum, why some fail, the rule and the notes."""
    table = _table("stratum", "n", "difference", "lower bound", "verdict")
    for row in found.strata:
        verdict = "pass" if row.has_passed else "fail"
        table.add_row(row.stratum, str(row.pairs.n), _signed(row.relative), _signed(row.lower_bound), verdict)
    console.print(table)
    for row in found.strata:
        if row.reason is not None:
            console.print(f"{row.stratum}: {row.reason}", markup=False, highlight=False, soft_wrap=True)
    bound = f"every one-sided {found.confidence:.0%} lower bound must be above {-found.margin:.0%}"
    console.print(f"relative to the baseline; {bound}", soft_wrap=True)
    _show_computed(found.baseline.computed, found.candidate.computed, console)
    for note in found.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print("PASS" if found.passed else "FAIL")


def show_fidelity(found: FidelityReport, console: Console) -> None:
    """How far the candidate's distributions are from the baseline's, and what both take in memory."""
    table = _table("stratum", "tokens", "ppl", "cand.", "change %", "KL per token", "same top %")
    for row in found.strata:
        table.add_row(*_fidelity_cells(row))
    console.print(table)
    for name, side in (("baseline", found.baseline), ("candidate", found.candidate)):
        console.print(
            f"{name:9}  weights {side.weight_bytes} bytes ({side.weight_dtype}), keys and values {side.kv_bytes_per_token} "
            f"bytes per token ({side.kv_dtype}), computed by {side.kernels}",
            soft_wrap=True,
            highlight=False,
        )
    for reason, count in found.left_out.items():
        console.print(f"{count} left out: {reason}", markup=False, highlight=False, soft_wrap=True)


def _show_computed(baseline: Computed | None, candidate: Computed | None, console: Console) -> None:
    for name, computed in (("baseline", baseline), ("candidate", candidate)):
        told = "not recorded; only a run with --offline knows" if computed is None else computed
        console.print(f"{name:9}  computed by: {told}", soft_wrap=True, highlight=False)
    if baseline and candidate and baseline.kernels != candidate.kernels:
        console.print(
            "note: the two were computed by different kernels, which alone can change answers", soft_wrap=True
        )


def _fidelity_cells(row: StratumFidelity) -> list[str]:
    change, same = row.change, row.agreement
    lowest = "" if same.interval is None else f" ≥{100 * same.interval.low:.2f}"
    return [
        row.stratum,
        str(row.tokens),
        f"{row.baseline_perplexity:.4f}",
        f"{row.candidate_perplexity:.4f}",
        f"{100 * change.value:+.2f}{_half(change, lambda half: f'{100 * half:.2f}')}",
        f"{row.divergence.value:.1e}{_half(row.divergence, lambda half: f'{half:.0e}')}",
        f"{100 * same.value:.2f}{lowest}",
    ]


def _half(found: Estimate, written: Callable[[float], str]) -> str:
    """Half of an interval that lies around its value as good as evenly."""
    return "" if found.interval is None else f" ±{written(found.interval.high - found.value)}"


def _table(*names: str) -> Table:
    table = Table(*names, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _cells(row: StratumComparison) -> list[str]:
    pairs = row.pairs
    if row.interval is None:
        return [row.stratum, "0", *["-"] * 7]
    return [
        row.stratum,
        str(pairs.n),
        f"{pairs.baseline / pairs.n:.1%}",
        f"{pairs.candidate / pairs.n:.1%}",
        _signed(pairs.difference),
        _interval(row.interval),
        f"{row.p_value:.3f}",
        str(pairs.baseline_only),
        str(pairs.candidate_only),
    ]


def _line(flip: Flip) -> str:
    sign = "lost" if flip.is_loss else "gained"
    return f"{sign:6} {flip.stratum} {flip.id}: {_cut(flip.baseline)} -> {_cut(flip.candidate)}"


def _cut(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


def _interval(found: Interval) -> str:
    return f"{100 * found.low:.1f} … {100 * found.high:.1f}"


def _signed(share: float | None) -> str:
    return "-" if share is None else f"{share:+.1%}"
