"""The live view tells how far a load is, however narrow the terminal, and what its last answers were like."""

from io import StringIO

import pytest
from rich.console import Console

from servery.bench.percentile import Distribution
from servery.bench.sample import Sample
from servery.bench.slo import BenchSlo
from servery.bench.table import tail
from servery.bench.watch import View, Watch, _bar

GOOD = Sample(0.0, [0.05, 0.15], 0.15, counted_tokens=2)
FAILED = Sample(0.0, error_kind="timeout", error="late")


def view(console: Console, name: str = "open loop, 5 requests/s, Poisson") -> View:
    bar = _bar(console)
    return View(bar, bar.add_task(name, total=40), BenchSlo.parse("ttft:1s"))


@pytest.mark.parametrize("width", [44, 80, 200])
def test_progress_is_seen_in_every_terminal(width: int) -> None:
    console = Console(file=StringIO(), width=width, force_terminal=True, color_system=None)
    shown = view(console)
    for sample in (GOOD, GOOD, FAILED):
        shown.take(sample)
    with console.capture() as captured:
        console.print(shown.drawn())
    first, second = captured.get().splitlines()
    assert " 3/40" in first
    assert "open loop" in first
    assert "/s, 1 of the last 3 failed" in second
    assert width < 80 or second.endswith("SLO 67%, TTFT p50 50 ms, TPOT p50 100.0 ms")


def test_before_the_first_answer_nothing_is_made_up() -> None:
    assert view(Console(file=StringIO())).figures() == "no answer yet"


def test_a_rate_falls_while_nothing_comes() -> None:
    shown = view(Console(file=StringIO()))
    shown.take(GOOD)
    shown.began -= 10.0
    assert shown.figures().startswith("0.1/s")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_only_a_terminal_is_drawn_to(is_terminal: bool) -> None:
    file = StringIO()
    watch = Watch(console=Console(file=file, force_terminal=is_terminal, width=80))
    with watch.count("making prompts", 2) as advance:
        advance()
    with watch.part("warming up", 1) as seen:
        seen(GOOD)
    with watch.part("nothing", 0):
        pass
    assert ("warming up" in file.getvalue()) is is_terminal
    assert "nothing" not in file.getvalue()


def test_a_tail_is_the_furthest_percentile_that_may_be_stated() -> None:
    tails = [tail(Distribution.of([1.0] * n)) for n in (19, 20, 199, 200, 1000)]
    assert tails == ["n < 20", "p50 1.00", "p90 1.00", "p95 1.00", "p99 1.00"]
