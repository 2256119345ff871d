"""The plots of a page hold what the measurement holds."""

from dataclasses import replace
from typing import Any

import pytest

from servery.bench.engine_watch import FirstTokens, Moment
from servery.bench.machine import Provenance
from servery.bench.measured import Measured
from servery.bench.page.axis import Axis
from servery.bench.page.document import page
from servery.bench.page.rate_plots import rate_plots
from servery.bench.page.run_plots import run_plots
from servery.bench.report import Report, dollars, faults_of, sample_rows, summarize
from servery.bench.sample import Sample
from servery.bench.slo import BenchSlo

MADE = Provenance("2026-11-21T00:00:00+00:00", ["servery", "bench"], "0", None, {"cpu": "one", "cores": 2})
MOMENTS = [Moment(0.0, 1, 0, 0.1, 0), Moment(2.0, 4, 2, 0.9, 3), Moment(4.0, 2, 0, 0.4, 3)]


def report(rate: float | None = 10.0, n: int = 100, **fields: Any) -> Report:
    """`n` requests that take half a second, of which one in ten misses its SLO; each is sent 2 ms late."""
    slo = BenchSlo.parse("ttft:200ms", 0.8)
    samples = []
    for index in range(n):
        due = index * 0.1
        first = due + (0.3 if index % 10 == 0 else 0.1)
        samples.append(Sample(due + 0.002, [first, due + 0.5], due + 0.5, 20, 0, 10, "length", due=due))
    measured = Measured(samples, 0.0, n * 0.1 + 0.5, 0.05, "open loop", is_open=rate is not None)
    made = Report(
        provenance=MADE,
        options={"api_price": 5.0, "work": {"prompt_tokens": "20", "output_tokens": "10", "trace": None, "seed": 7}},
        model="m",
        offered_rate=rate,
        clients=None if rate is not None else 4,
        summary=summarize(measured, slo, 1.0),
        faults=[],
        engine=None,
        bandwidth=None,
        notes=[],
        samples=sample_rows(measured, slo),
        first_tokens=FirstTokens(10.0, 80.0, 10.0),
        moments=MOMENTS,
    )
    return replace(made, **fields)


def test_a_run_shows_what_happened_when() -> None:
    titles = [plot.title for plot in run_plots(report())]
    assert titles == [
        "Time to first token, all requests",
        "Time per output token, all requests",
        "TTFT as the run went on",
        "Requests a second as the run went on",
        "Requests under way",
        "KV memory",
        "Sent late",
        "Lengths",
    ]
    assert set(titles) - {plot.title for plot in run_plots(report(None, 20, moments=[]))} == {
        "Requests a second as the run went on",
        "KV memory",
        "Sent late",
    }


def test_what_waits_and_what_is_pushed_out_is_named() -> None:
    drawn = {plot.title: plot.drawing for plot in run_plots(report())}
    assert "waiting in the engine" in drawn["Requests under way"]
    assert "pushed out (3)" in drawn["KV memory"]
    assert drawn["KV memory"].count("<circle") == 1
    assert drawn["Sent late"].count("<circle") == 100
    assert "limit at p99" in drawn["Sent late"]


def test_several_runs_show_bounds_parts_and_prices() -> None:
    runs = [report(5.0), report(10.0)]
    drawn = {plot.title: plot for plot in rate_plots(runs, 10.0)}
    assert list(drawn) == [
        "Throughput and goodput",
        "Share that kept the SLO",
        "Why the SLO was missed",
        "Time to first token",
        "Time per output token",
        "Speed for one against speed for all",
        "What the time to first tokens is spent on",
        "Cost",
        "Cost by use of the capacity",
    ]
    assert drawn["Throughput and goodput"].drawing.count('class="bar c1"') == 2
    assert all(name in drawn["What the time to first tokens is spent on"].drawing for name in ("waiting", "prompt"))
    assert all("provider: $5" in drawn[title].drawing for title in ("Cost", "Cost by use of the capacity"))
    dearest = drawn["Cost by use of the capacity"].y.high
    slo = runs[1].summary.slo
    assert slo is not None
    assert dearest == pytest.approx(1.15 * 20 * (slo.dollars_per_million_good_tokens or 0.0))
    assert "Cost by use of the capacity" not in {plot.title for plot in rate_plots(runs, None)}


def test_the_head_says_what_was_asked_and_whether_the_client_kept_up() -> None:
    html = page([report()])
    for words in ("20 tokens", "10 tokens", "<td>7</td>", "5% of a core; sent 2.00 ms late at p99, of 5.0 ms allowed"):
        assert words in html
    assert "10.0 waiting, 80.0 prompt, 10.0 on the way" in html


@pytest.mark.parametrize(
    ("cost", "text"), [(12345.678, "$12,345.68"), (1.2856, "$1.29"), (0.29612, "$0.296"), (0.0012345, "$0.00123")]
)
def test_money_is_written_as_people_write_it(cost: float, text: str) -> None:
    assert dollars(cost) == text


def test_counts_have_no_halves() -> None:
    assert Axis.over([0, 3], from_zero=True, is_whole=True).ticks == [0, 1, 2, 3]
    assert Axis.over([0, 15], from_zero=True, is_whole=True).ticks == [0, 3, 6, 9, 12, 15]


def test_one_reason_is_told_once_for_all_runs() -> None:
    late = [report(faults=[f"this client sent requests late: {ms} ms at p99"]) for ms in (9, 8)]
    assert faults_of(late[:1]) == ["this client sent requests late: 9 ms at p99"]
    assert faults_of([*late, report()]) == ["2 of 3 runs: this client sent requests late: 9 ms at p99"]
