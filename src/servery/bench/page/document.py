"""The page: head line, warnings, figures, plots, and what it was measured on."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from servery.bench.page.picture import STYLE
from servery.bench.page.plot import Plot
from servery.bench.page.rate_plots import load_of, rate_plots
from servery.bench.page.run_plots import run_plots
from servery.bench.percentile import QUANTILES, Percentile, quantile, smallest_n
from servery.bench.report import Report, Summary, dollars, faults_of
from servery.bench.validity import lag_limit_s
from servery.byte_size import format_byte_size

_LATENCIES = {
    "ttft_ms": "TTFT",
    "tpot_ms": "TPOT",
    "itl_ms": "ITL",
    "stall_ms": "longest gap",
    "e2e_ms": "E2E",
    "lag_ms": "sent late",
}
_STYLE = STYLE + (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def write_page(
    path: Path, reports: Sequence[Report], *, conclusion: str | None = None, capacity: float | None = None
) -> None:
    """Write the page of one run or of several; `conclusion` is its first sentence. Raises `OSError`."""
    path.write_text(page(reports, conclusion=conclusion, capacity=capacity), encoding="utf-8")


def page(reports: Sequence[Report], *, conclusion: str | None = None, capacity: float | None = None) -> str:
    """The HTML: nothing in it is loaded from elsewhere."""
    first = reports[0]
    title = f"{first.model}: {first.summary.load}" if len(reports) == 1 else f"{first.model}: {len(reports)} runs"
    notes = notes_of(reports)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="conclusion">{escape(conclusion)}</p>' if conclusion else "",
        fault_lines(reports),
        plots_of(rate_plots(reports, capacity)) if len(reports) > 1 else "",
        *(_run(report, is_alone=len(reports) == 1) for report in sorted(reports, key=load_of)),
        "<h2>Notes</h2>" + list_of(notes) if notes else "",
        provenance(first),
    ]
    return whole_page(title, body)


def whole_page(title: str, body: Iterable[str]) -> str:
    """A page of these parts, its style inside."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def fault_lines(reports: Sequence[Report]) -> str:
    """Why the runs are invalid, each reason once."""
    return "".join(f'<p class="fault"><strong>Invalid:</strong> {escape(fault)}.</p>' for fault in faults_of(reports))


def notes_of(reports: Sequence[Report]) -> list[str]:
    """What a reader must know, each note once."""
    return list(dict.fromkeys(note for report in reports for note in report.notes))


def _run(report: Report, *, is_alone: bool) -> str:
    """Open where it is the only one."""
    inside = _facts(report) + _table(report.summary) + _errors(report.summary) + plots_of(run_plots(report))
    if is_alone:
        return inside
    return f"<details><summary>{escape(report.summary.load)}</summary>{inside}</details>"


def plots_of(plots: Sequence[Plot]) -> str:
    """Side by side where there is room."""
    return f'<div class="plots">{"".join(plot.svg for plot in plots)}</div>'


def _facts(report: Report) -> str:
    summary = report.summary
    rates = summary.throughput
    facts = [
        ("good requests", f"{summary.good} in {summary.wall_s:.1f} s"),
        ("requests/s", f"{rates.good_requests:.2f}"),
        ("output tokens/s", f"{rates.output_tokens:.1f}"),
        ("prompt tokens/s", f"{rates.prompt_tokens:.1f}"),
        ("errors", str(sum(summary.errors.values()))),
    ]
    if (slo := summary.slo) is not None:
        got = slo.attainment
        facts += [
            ("SLO", slo.slo),
            ("kept it", f"{got.share:.2%} ({got.low:.2%} to {got.high:.2%})"),
            ("goodput", f"{slo.goodput:.2f} requests/s"),
        ]
        if slo.dollars_per_million_good_tokens is not None:
            facts.append(("per million good tokens", dollars(slo.dollars_per_million_good_tokens)))
    if (first := report.first_tokens) is not None:
        parts = (
            f"{_number(first.queue_ms)} waiting, {_number(first.prefill_ms)} prompt, {_number(first.way_ms)} on the way"
        )
        facts.append(("time to first token, mean ms", parts))
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f"<dl>{cells}</dl>"


def _table(summary: Summary) -> str:
    names = "".join(f"<th>p{100 * q:.0f}</th>" for q in QUANTILES)
    rows = []
    for name, of in summary.latency.items():
        cells = "".join(f"<td>{_cell(of.percentiles[f'p{100 * q:.0f}'], q)}</td>" for q in QUANTILES)
        ends = f"<td>{_number(of.mean)}</td>{cells}<td>{_number(of.maximum)}</td>"
        rows.append(f"<tr><th scope=row>{_LATENCIES[name]}</th><td>{of.n}</td>{ends}</tr>")
    head = f"<tr><th>milliseconds</th><th>n</th><th>mean</th>{names}<th>max</th></tr>"
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _cell(percentile: Percentile, q: float) -> str:
    """The value, its 95 % interval small beneath."""
    if percentile.value is None:
        return f"<small>n &lt; {smallest_n(q)}</small>"
    between = f"{_number(percentile.low)} to {_number(percentile.high)}"
    return f"{_number(percentile.value)}<br><small>{between}</small>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _errors(summary: Summary) -> str:
    if not summary.errors:
        return ""
    lines = (f"{kind}: {count}, for example: {summary.error_examples[kind]}" for kind, count in summary.errors.items())
    return "<h2>Errors</h2>" + list_of(lines)


def list_of(lines: Iterable[str]) -> str:
    """One below the other."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _machine(name: str, value: object) -> tuple[str, str]:
    """A fact as people say it."""
    if name.endswith("_bytes") and isinstance(value, int):
        return name.removesuffix("_bytes").replace("_", " "), format_byte_size(value)
    return name.replace("_", " "), f"{value:.2f}" if isinstance(value, float) else str(value)


def _work(report: Report) -> dict[str, str]:
    """What was asked, where the options tell it."""
    work = report.options.get("work", {}) if isinstance(report.options, dict) else {}
    if work.get("trace"):
        told = {"trace": f"{work['trace']}, lengths x {work['scale_tokens']:g}"}
    else:
        names = {"prompt_tokens": "prompts", "output_tokens": "answers"}
        told = {words: f"{work[name]} tokens" for name, words in names.items() if name in work}
    return {**told, "seed": str(work["seed"])} if "seed" in work else told


def _client(report: Report) -> str:
    """Whether the client kept up."""
    share = f"{report.summary.client_cpu_share:.0%} of a core"
    late = sorted(row["sent_s"] - row["due_s"] for row in report.samples)
    if report.offered_rate is None or not late:
        return share
    limit_ms = 1e3 * lag_limit_s(report.slo_limits)
    return f"{share}; sent {1e3 * quantile(late, 0.99):.2f} ms late at p99, of {limit_ms:.1f} ms allowed"


def provenance(report: Report) -> str:
    """What it was measured with."""
    made = report.provenance
    facts = {
        "command": " ".join(made.command),
        "date": made.date,
        **_work(report),
        "client": _client(report),
        "servery": f"{made.version}, commit {made.commit}" if made.commit else made.version,
        **dict(_machine(name, value) for name, value in made.machine.items() if value is not None),
    }
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items()
    )
    return f'<h2>Measured with</h2><div class="wide"><table class="facts"><tbody>{rows}</tbody></table></div>'
