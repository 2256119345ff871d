"""The figures of a run: computed from its samples, shown as a table, written as JSON."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from servery.bench.closed_loop import Measured
from servery.bench.engine_meter import EngineWork
from servery.bench.machine import Provenance
from servery.bench.percentile import QUANTILES, Distribution, Percentile, smallest_n
from servery.bench.sample import Sample

SCHEMA = "servery.bench/1"
_NAMES = {
    "ttft_ms": "TTFT ms",
    "tpot_ms": "TPOT ms",
    "itl_ms": "ITL ms",
    "stall_ms": "longest gap ms",
    "e2e_ms": "E2E ms",
}


@dataclass(frozen=True, slots=True)
class Throughput:
    """Per second over the whole run; `steady_` over the part in which all clients were busy, if there was one."""

    good_requests: float
    output_tokens: float
    prompt_tokens: float
    steady_output_tokens: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run showed. Latencies are of good requests only; errors are counted by kind, with one example each."""

    load: str
    good: int
    errors: dict[str, int]
    error_examples: dict[str, str]
    wall_s: float
    latency: dict[str, Distribution]
    throughput: Throughput
    prompt_tokens: Distribution
    output_tokens: Distribution
    cached_share: float | None
    tokens_per_event: float | None
    client_cpu_share: float


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about one run; `notes` say what the reader must know to judge the figures."""

    provenance: Provenance
    options: dict[str, Any]
    model: str
    summary: Summary
    engine: EngineWork | None
    bandwidth: dict[str, Any] | None
    notes: list[str]
    samples: list[dict[str, Any]]
    schema: str = SCHEMA


def summarize(measured: Measured, concurrency: int) -> Summary:
    """The figures of `measured`."""
    good = [sample for sample in measured.samples if sample.is_good]
    bad = [sample for sample in measured.samples if not sample.is_good]
    prompt = [sample.prompt_tokens for sample in good if sample.prompt_tokens is not None]
    output = [sample.output_tokens for sample in good]
    events = sum(len(sample.arrivals) for sample in good)
    return Summary(
        load=f"closed loop, {concurrency} client{'s' if concurrency > 1 else ''}",
        good=len(good),
        errors=dict(Counter(str(sample.error_kind) for sample in bad)),
        error_examples={str(sample.error_kind): str(sample.error) for sample in reversed(bad)},
        wall_s=measured.wall_s,
        latency={name: Distribution.of(values) for name, values in _latencies(good).items()},
        throughput=_throughput(measured, good),
        prompt_tokens=Distribution.of(prompt),
        output_tokens=Distribution.of(output),
        cached_share=sum(sample.cached_tokens for sample in good) / sum(prompt) if sum(prompt) else None,
        tokens_per_event=sum(output) / events if events else None,
        client_cpu_share=measured.client_cpu_share,
    )


def _latencies(good: Sequence[Sample]) -> dict[str, list[float]]:
    gaps = [sample.gaps_s for sample in good]
    return {
        "ttft_ms": _ms(sample.ttft_s for sample in good),
        "tpot_ms": _ms(sample.tpot_s for sample in good),
        "itl_ms": _ms(gap for of_one in gaps for gap in of_one),
        "stall_ms": _ms(max(of_one) for of_one in gaps if of_one),
        "e2e_ms": _ms(sample.e2e_s for sample in good),
    }


def _ms(seconds: Iterable[float | None]) -> list[float]:
    return [1e3 * value for value in seconds if value is not None]


def _throughput(measured: Measured, good: Sequence[Sample]) -> Throughput:
    wall_s, steady_s = measured.wall_s, measured.steady_s
    steady_end = measured.began + steady_s
    # What failed half-way was generated, too: tokens per second are the server's work, good requests the user's gain.
    steady = sum(_tokens_until(sample, steady_end) for sample in measured.samples)
    return Throughput(
        good_requests=len(good) / wall_s,
        output_tokens=sum(sample.output_tokens for sample in measured.samples) / wall_s,
        prompt_tokens=sum(sample.prompt_tokens or 0 for sample in measured.samples) / wall_s,
        # Shorter than half the run it is mostly the first burst and says little.
        steady_output_tokens=steady / steady_s if steady_s > wall_s / 2 else None,
    )


def _tokens_until(sample: Sample, end: float) -> float:
    """Tokens that had arrived by `end`, each event taken to carry the request's mean."""
    if not sample.arrivals:
        return 0.0
    arrived = sum(1 for at in sample.arrivals if at <= end)
    return arrived * sample.output_tokens / len(sample.arrivals)


def sample_rows(measured: Measured) -> list[dict[str, Any]]:
    """One row per request for the JSON; `sent_s` counts from the first."""
    return [
        {
            "sent_s": sample.sent - measured.began,
            "ttft_s": sample.ttft_s,
            "tpot_s": sample.tpot_s,
            "e2e_s": sample.e2e_s,
            "prompt_tokens": sample.prompt_tokens,
            "cached_tokens": sample.cached_tokens,
            "output_tokens": sample.output_tokens,
            "events": len(sample.arrivals),
            "finish_reason": sample.finish_reason,
            "error": sample.error_kind,
        }
        for sample in measured.samples
    ]


def show(report: Report, console: Console) -> None:
    """Print the table, the totals, the engine's share and the notes."""
    summary = report.summary
    console.print(f"{report.model}: {summary.good} good requests in {summary.wall_s:.1f} s; {summary.load}")
    console.print(_latency_table(summary))
    console.print(_totals(summary))
    if report.engine is not None:
        console.print(_engine_line(report.engine, report.bandwidth))
    for kind, count in summary.errors.items():
        console.print(f"error {kind}: {count} times, for example: {summary.error_examples[kind]}", markup=False)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)


def _latency_table(summary: Summary) -> Table:
    table = Table("", "n", "mean", *(f"p{q * 100:.0f}" for q in QUANTILES), "max")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, of in summary.latency.items():
        cells = [_cell(of.percentiles[f"p{q * 100:.0f}"], q) for q in QUANTILES]
        table.add_row(_NAMES[name], str(of.n), _number(of.mean), *cells, _number(of.maximum))
    return table


def _cell(percentile: Percentile, q: float) -> str:
    return f"n < {smallest_n(q)}" if percentile.value is None else _number(percentile.value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _totals(summary: Summary) -> str:
    rates = summary.throughput
    steady = rates.steady_output_tokens
    lines = [
        f"output {rates.output_tokens:.1f} tokens/s"
        + (f" ({steady:.1f} while all clients were busy)" if steady is not None else "")
        + f", prompts {rates.prompt_tokens:.1f} tokens/s, {rates.good_requests:.2f} good requests/s",
        f"prompt {_number(summary.prompt_tokens.mean)} tokens, answer {_number(summary.output_tokens.mean)} (means)",
    ]
    if summary.cached_share:
        lines.append(f"{summary.cached_share:.1%} of the prompt tokens came from the prefix cache")
    return "\n".join(lines)


def _engine_line(engine: EngineWork, bandwidth: dict[str, Any] | None) -> str:
    line = (
        f"engine: {engine.steps} steps of {engine.step_ms:.2f} ms, {engine.tokens_per_step:.1f} tokens and "
        f"{engine.read_bytes_per_step / 1e6:.2f} MB each: {engine.achieved_bytes_per_s / 1e9:.2f} GB/s"
    )
    if engine.mbu is None or bandwidth is None:
        return line
    best = bandwidth["best_bytes_per_s"] / 1e9
    return f"{line}, {engine.mbu:.1%} of the {best:.1f} GB/s measured here (MBU)"
