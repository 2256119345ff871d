"""The figures of a run in the terminal."""

from functools import partial

from rich.console import Console
from rich.table import Table

from servery.bench.bandwidth import Bandwidth
from servery.bench.engine_meter import EngineWork
from servery.bench.engine_watch import FirstTokens
from servery.bench.fitting import fitting
from servery.bench.percentile import QUANTILES, Distribution, Percentile, smallest_n
from servery.bench.report import Report, SloFigures, Summary, dollars

_NAMES = {
    "ttft_ms": "TTFT ms",
    "tpot_ms": "TPOT ms",
    "itl_ms": "ITL ms",
    "stall_ms": "longest gap ms",
    "e2e_ms": "E2E ms",
    "lag_ms": "sent late ms",
}


def show(report: Report, console: Console) -> None:
    """Print the table, the totals, the engine's share and the notes."""
    summary = report.summary
    say = partial(console.print, markup=False)  # what servers say of themselves is no markup
    say(f"{report.model}: {summary.good} good requests in {summary.wall_s:.1f} s; {summary.load}")
    console.print(_latency_table(summary, console))
    say(_totals(summary))
    if summary.slo is not None:
        say(slo_lines(summary.slo))
    if report.first_tokens is not None:
        say(first_tokens_line(report.first_tokens))
    if report.engine is not None:
        say(_engine_line(report.engine, report.bandwidth))
    for kind, count in summary.errors.items():
        say(f"error {kind}: {count} times, for example: {summary.error_examples[kind]}")
    for fault in report.faults:
        say(f"INVALID: {fault}", style="bold red")
    for note in report.notes:
        say(f"note: {note}")


def tail(of: Distribution) -> str:
    """The furthest percentile that there are enough samples for, by its name."""
    stated = [(name, one.value) for name, one in of.percentiles.items() if one.value is not None]
    return f"{stated[-1][0]} {_number(stated[-1][1])}" if stated else f"n < {smallest_n(QUANTILES[0])}"


def _latency_table(summary: Summary, console: Console) -> Table:
    rows = summary.latency.items()
    columns = {
        "": [_NAMES[name] for name, _ in rows],
        "n": [str(of.n) for _, of in rows],
        "mean": [_number(of.mean) for _, of in rows],
        **{f"p{q * 100:.0f}": [_cell(of.percentiles[f"p{q * 100:.0f}"], q) for _, of in rows] for q in QUANTILES},
        "max": [_number(of.maximum) for _, of in rows],
    }
    return fitting(console, columns, ("mean", "n", "p90", "p99"))


def _cell(percentile: Percentile, q: float) -> str:
    return f"n < {smallest_n(q)}" if percentile.value is None else _number(percentile.value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _totals(summary: Summary) -> str:
    rates = summary.throughput
    steady = rates.steady_output_tokens
    lines = [
        f"output {rates.output_tokens:.1f} tokens/s"
        + (f" ({steady:.1f} until the last was sent)" if steady is not None else "")
        + f", prompts {rates.prompt_tokens:.1f} tokens/s, {rates.good_requests:.2f} good requests/s",
        f"prompt {_number(summary.prompt_tokens.mean)} tokens, answer {_number(summary.output_tokens.mean)} (means)",
    ]
    if summary.ttft_by_turn_ms:
        shown = ", ".join(f"{turn}: {_turn(of)}" for turn, of in summary.ttft_by_turn_ms.items())
        lines.append(f"TTFT by turn of the conversation: {shown}")
    if summary.cached_share:
        lines.append(f"{summary.cached_share:.1%} of the prompt tokens came from the prefix cache")
    return "\n".join(lines)


def _turn(of: Distribution) -> str:
    """The median, or the mean of the few there are."""
    median = of.percentiles["p50"].value
    return f"p50 {_number(median)} ms" if median is not None else f"mean {_number(of.mean)} ms (n = {of.n})"


def slo_lines(figures: SloFigures) -> str:
    """How the SLO was kept, in two or three lines."""
    got = figures.attainment
    bounds = f"{got.low:.2%} to {got.high:.2%}, each bound with 95 %"
    lines = [f"SLO {figures.slo}", f"{got.share:.2%} of {got.n} requests kept it ({bounds}): {figures.goodput:.2f}/s"]
    if figures.misses:
        lines.append("missed: " + ", ".join(f"{why} {count}" for why, count in sorted(figures.misses.items())))
    if figures.is_backlog_growing:
        lines.append("requests piled up for as long as the run lasted: the rate is above what the server can do")
    if figures.dollars_per_million_good_tokens is not None:
        lines.append(f"{dollars(figures.dollars_per_million_good_tokens)} per million good output tokens")
    return "\n".join(lines)


def first_tokens_line(of: FirstTokens) -> str:
    """What the time to first tokens was spent on."""
    parts = f"{_number(of.queue_ms)} ms waiting, {_number(of.prefill_ms)} ms prompt, {_number(of.way_ms)} ms on the way"
    return f"time to first token, mean: {parts}"


def _engine_line(engine: EngineWork, bandwidth: Bandwidth | None) -> str:
    line = (
        f"engine: {engine.steps} steps of {engine.step_ms:.2f} ms, {engine.tokens_per_step:.1f} tokens and "
        f"{engine.read_bytes_per_step / 1e6:.2f} MB each: {engine.achieved_bytes_per_s / 1e9:.2f} GB/s"
    )
    if engine.mbu is None or bandwidth is None:
        return line
    best = bandwidth.best_bytes_per_s / 1e9
    return f"{line}, {engine.mbu:.1%} of the {best:.1f} GB/s measured here (MBU)"
