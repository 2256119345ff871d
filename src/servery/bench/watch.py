"""The live view in the terminal: how far a load is, and what its last answers were like."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from servery.bench.percentile import quantile
from servery.bench.sample import Sample
from servery.bench.slo import BenchSlo

_LATEST = 100  # samples that the live figures are of
_EVERY_S = 0.25  # drawing more often would cost the client what it measures


@dataclass(slots=True)
class Watch:
    """Shown on stderr where that is a terminal, else silent."""

    slo: BenchSlo | None = None
    console: Console = field(default_factory=lambda: Console(stderr=True))

    @contextmanager
    def count(self, name: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar for work without samples; yields what to call after each piece of it."""
        with self._bar(total) as bar:
            task = bar.add_task(name, total=total, live="")
            yield lambda: bar.advance(task)

    @contextmanager
    def part(self, name: str, total: int) -> Iterator[Callable[[Sample], None]]:
        """A bar for a load; yields what to call with each sample that ended."""
        latest: deque[Sample] = deque(maxlen=_LATEST)
        done, drawn_at, began = 0, 0.0, perf_counter()
        with self._bar(total) as bar:
            task = bar.add_task(name, total=total, live="")

            def seen(sample: Sample) -> None:
                nonlocal done, drawn_at
                done += 1
                latest.append(sample)
                if bar.disable or perf_counter() - drawn_at < _EVERY_S:
                    return
                drawn_at = perf_counter()
                bar.update(task, completed=done, live=self._live(latest, done / (drawn_at - began)))

            yield seen
            bar.update(task, completed=done)

    def _live(self, latest: "deque[Sample]", rate: float) -> str:
        first = sorted(sample.ttft_s for sample in latest if sample.ttft_s is not None)
        each = sorted(sample.tpot_s for sample in latest if sample.tpot_s is not None)
        errors = sum(not sample.is_good for sample in latest)
        parts = [f"{rate:.1f}/s"]
        parts += [f"TTFT p50 {1e3 * quantile(first, 0.5):.0f} ms"] if first else []
        parts += [f"TPOT p50 {1e3 * quantile(each, 0.5):.1f} ms"] if each else []
        if self.slo is not None:
            parts.append(f"{sum(not self.slo.misses(one) for one in latest) / len(latest):.0%} keep the SLO")
        return ", ".join([*parts, f"{errors} of the last {len(latest)} failed"] if errors else parts)

    def _bar(self, total: int) -> Progress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[live]}"),
        )
        hidden = not self.console.is_terminal or not total
        return Progress(*columns, console=self.console, transient=True, disable=hidden)
