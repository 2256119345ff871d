"""The page of a comparison: the verdict, each figure with its interval, and both spreads over each other."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from servery.bench.page.axis import Axis
from servery.bench.page.document import fault_lines, list_of, notes_of, plots_of, provenance, whole_page
from servery.bench.page.plot import Plot
from servery.bench.paired import SHARES, Comparison, Outcome
from servery.bench.report import Latency, Report

_WIDTH, _HEIGHT, _MIDDLE = 240, 22, 11
_LEAST_SPAN = 0.1  # of the ratios that a bar shows, each side of 1
_CORNERS = 400


def write_pair(
    path: Path, a: Sequence[Report], b: Sequence[Report], figures: Mapping[str, Comparison], verdict: str, margin: float
) -> None:
    """Write the page of the runs of A and of B. Raises `OSError`."""
    path.write_text(pair_page(a, b, figures, verdict, margin), encoding="utf-8")


def pair_page(
    a: Sequence[Report], b: Sequence[Report], figures: Mapping[str, Comparison], verdict: str, margin: float
) -> str:
    """The HTML: nothing in it is loaded from elsewhere."""
    names = [f"{one.model} at {_address(one)}" for one in (a[0], b[0])]
    title = f"A: {a[0].model}, B: {b[0].model}"
    runs = f"{len(a)} runs of each in turn, {a[0].summary.load}"
    sides = "".join(
        f'<div><dt><svg class="key" viewBox="0 0 14 4"><path class="line c{colour}" d="M0,2 h14"/></svg> {side}</dt>'
        f"<dd>{escape(name)}</dd></div>"
        for side, name, colour in (("A", names[0], 1), ("B", names[1], 2))
    )
    reports = [*a, *b]
    notes = notes_of(reports)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="conclusion">{escape(verdict)}</p>',
        fault_lines(reports),
        f"<dl>{sides}<div><dt>load</dt><dd>{escape(runs)}</dd></div></dl>",
        _table(figures, margin),
        plots_of(_plots(a, b)),
        "<h2>Notes</h2>" + list_of(notes) if notes else "",
        provenance(a[0]),
    ]
    return whole_page(title, body)


def _address(report: Report) -> str:
    target = report.options.get("target", {}) if isinstance(report.options, dict) else {}
    return str(target.get("url", "the same server"))


def _table(figures: Mapping[str, Comparison], margin: float) -> str:
    ends = [abs(math.log(end)) for one in figures.values() for end in (one.low, one.high) if 0 < end < math.inf]
    span = max([*ends, math.log(1 + max(2 * margin, _LEAST_SPAN))])
    rows = []
    for name, one in figures.items():
        scale, unit = (100.0, "%") if name in SHARES else (1e3, "ms")
        values = "".join(f"<td>{scale * value:.4g} {unit}</td>" for value in (one.a, one.b))
        ratio = f"<td>{one.ratio:.3f}<br><small>{one.low:.3f} to {one.high:.3f}</small></td>"
        cells = f"{values}{ratio}<td>{_bar(one, margin, span)}</td><td>{escape(one.outcome.value)}</td>"
        rows.append(f"<tr><th scope=row>{escape(name)}</th>{cells}</tr>")
    low, high = math.exp(-span), math.exp(span)
    scale_words = f"<small>{low:.2g}</small><span>B / A</span><small>{high:.2g}</small>"
    head = f'<tr><th></th><th>A</th><th>B</th><th>B / A</th><th class="scale">{scale_words}</th><th>B is</th></tr>'
    return f'<div class="wide"><table class="pair"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _bar(one: Comparison, margin: float, span: float) -> str:
    """The interval as a bar over the margin around 1, on a logarithmic scale."""
    colour = {Outcome.BETTER: "good", Outcome.WORSE: "bad"}.get(one.outcome, "open")
    low, high, at = (_place(value, span) for value in (one.low, one.high, one.ratio))
    left, right = _place(1 / (1 + margin), span), _place(1 + margin, span)
    return (
        f'<svg class="interval" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{one.low:.3f} to {one.high:.3f}">'
        f'<rect class="margin" x="{left:.1f}" y="0" width="{right - left:.1f}" height="{_HEIGHT}"/>'
        f'<path class="guide" d="M{_WIDTH / 2},0 V{_HEIGHT}"/>'
        f'<path class="bar {colour}" d="M{low:.1f},{_MIDDLE} H{max(high, low + 1):.1f}"/>'
        f'<circle class="{colour}" cx="{at:.1f}" cy="{_MIDDLE}" r="4"/></svg>'
    )


def _place(ratio: float, span: float) -> float:
    """From left to right; what is outside lies at the end."""
    log = math.log(ratio) if 0 < ratio < math.inf else math.copysign(span, ratio - 1)
    return _WIDTH * (0.5 + 0.5 * max(-1.0, min(1.0, log / span)))


def _plots(a: Sequence[Report], b: Sequence[Report]) -> list[Plot]:
    figures: dict[Latency, str] = {
        "ttft_s": "Time to first token",
        "tpot_s": "Time per output token",
        "e2e_s": "End to end",
    }
    plots = (_spread(title, _values(a, column), _values(b, column)) for column, title in figures.items())
    return [plot for plot in plots if plot is not None]


def _values(reports: Sequence[Report], column: Latency) -> list[float]:
    rows = (row for report in reports for row in report.samples)
    return sorted(1e3 * value for row in rows if row["error"] is None and (value := row[column]))


def _spread(title: str, a: Sequence[float], b: Sequence[float]) -> Plot | None:
    """The share of requests that took at most so long, of both."""
    if not a or not b:
        return None
    axis = Axis.over([*a, *b], is_log=True)
    plot = Plot(f"{title}, all requests", "milliseconds", "share of requests", axis, Axis(0.0, 1.0))
    for values, colour, name in ((a, 1, "A"), (b, 2, "B")):
        stride = max(1, len(values) // _CORNERS)
        kept = sorted({*range(0, len(values), stride), len(values) - 1})
        plot.steps([(values[index], (index + 1) / len(values)) for index in kept], colour, name)
    for share in (0.5, 0.99):
        plot.mark(f"p{100 * share:.0f}", y=share)
    return plot
