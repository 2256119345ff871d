"""The live view in the terminal: how far a load is, and what its last answers were like."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from servery.bench.percentile import quantile
from servery.bench.sample import Sample
from servery.bench.slo import BenchSlo

_LATEST = 100  # samples that the live figures are of
_DRAWN_PER_S = 4  # more would cost the client what it measures


@dataclass(slots=True)
class Watch:
    """Shown on stderr where that is a terminal, else silent."""

    slo: BenchSlo | None = None
    console: Console = field(default_factory=lambda: Console(stderr=True))

    @contextmanager
    def count(self, name: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar for work without samples; yields what to call after each piece of it."""
        bar = _bar(self.console)
        task = bar.add_task(name, total=total)
        with self._shown(lambda: bar, total):
            yield lambda: bar.advance(task)

    @contextmanager
    def part(self, name: str, total: int) -> Iterator[Callable[[Sample], None]]:
        """A bar for a load; yields what to call with each sample that ended."""
        bar = _bar(self.console)
        view = View(bar, bar.add_task(name, total=total), self.slo)
        with self._shown(view.drawn, total):
            yield view.take

    @contextmanager
    def _shown(self, draw: Callable[[], Group | Progress], total: int) -> Iterator[None]:
        if not self.console.is_terminal or not total:
            yield
            return
        view = Live(get_renderable=draw, console=self.console, transient=True, refresh_per_second=_DRAWN_PER_S)
        with view:
            yield


@dataclass(slots=True)
class View:
    """Two lines: the bar, and below it the figures of the last answers; what is drawn is of that very moment."""

    bar: Progress
    task: TaskID
    slo: BenchSlo | None = None
    done: int = 0
    began: float = field(default_factory=perf_counter)
    latest: deque[Sample] = field(default_factory=lambda: deque(maxlen=_LATEST))

    def take(self, sample: Sample) -> None:
        """Note a sample that ended."""
        self.done += 1
        self.latest.append(sample)

    def drawn(self) -> Group:
        """Both lines; called by the thread that draws."""
        self.bar.update(self.task, completed=self.done)
        return Group(self.bar, Text(self.figures(), no_wrap=True, overflow="ellipsis"))

    def figures(self) -> str:
        """The second line: with a server that stalls the rate falls, though no sample ends."""
        latest = tuple(self.latest)
        if not latest:
            return "no answer yet"
        first = sorted(sample.ttft_s for sample in latest if sample.ttft_s is not None)
        each = sorted(sample.tpot_s for sample in latest if sample.tpot_s is not None)
        failed = sum(not sample.is_good for sample in latest)
        parts = [f"{self.done / max(perf_counter() - self.began, 1e-9):.1f}/s"]
        parts += [f"{failed} of the last {len(latest)} failed"] if failed else []
        if self.slo is not None:
            parts.append(f"SLO {sum(not self.slo.misses(one) for one in latest) / len(latest):.0%}")
        parts += [f"TTFT p50 {1e3 * quantile(first, 0.5):.0f} ms"] if first else []
        parts += [f"TPOT p50 {1e3 * quantile(each, 0.5):.1f} ms"] if each else []
        return ", ".join(parts)


def _bar(console: Console) -> Progress:
    """What is said of the load gives way where there is little room; how far it is does not."""
    name = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis"))
    fixed = (
        BarColumn(bar_width=12, table_column=Column(min_width=12)),
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=9)),
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
    )
    return Progress(name, *fixed, console=console)
