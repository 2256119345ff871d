"""Parts of one run: each with a time of its own, so that one that fails or takes too long loses nothing of the others."""

import gc
import math
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

# A part that has less than that is not begun.
_LEAST_S = 0.01


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `target` is what it is to reach, at least, or at most where `is_cost`; None where there is no aim."""

    part: str
    name: str
    value: float | None
    unit: str = ""
    target: float | None = None
    is_cost: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        """Whether the target is met, in a word."""
        if self.value is None:
            return "FAILED"
        if self.target is None:
            return ""
        return "met" if (self.value <= self.target if self.is_cost else self.value >= self.target) else "missed"


class OutOfTime(Exception):
    """A part took longer than it may."""


class DeviceLost(Exception):
    """The device does nothing more for this process; `left` are the parts that it has not begun."""

    def __init__(self, left: "Sequence[Part]") -> None:
        super().__init__("the device does nothing more for this process")
        self.left = tuple(left)


@dataclass(slots=True)
class Machine:
    """What parts run on, and what it reaches: filled in by the first of them. `is_dry`: a CPU, with toy sizes."""

    device: torch.device
    is_dry: bool
    copy_bytes_per_s: float = 0.0
    operations_per_s: float = 0.0

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def answers(self) -> bool:
        """Whether the device still computes: after an illegal access it does nothing more for a process."""
        try:
            self.wait()
        except RuntimeError:
            return False
        return True

    def clear(self) -> None:
        """Give back memory that nobody uses, also of engines: a launcher and its graphs hold each other."""
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def best_s(self, work: Callable[[], object], rounds: int = 10) -> float:
        """Seconds of the quickest of some rounds, after two that do not count."""
        best = float("inf")
        for number in range(rounds + 2):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            best = min(best, time.perf_counter() - started) if number > 1 else best
        return best

    def replayed_s(self, work: Callable[[], object], repeats: int = 10) -> float:
        """Seconds of one call of `work` as a step launches it: some of them by a graph, without the host between two.

        On a CPU simply of one.
        """
        if self.device.type != "cuda":
            return self.best_s(work)
        work()  # compiles, outside of the graph
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(repeats):
                work()
        return self.best_s(graph.replay, 4) / repeats


@dataclass(frozen=True, slots=True)
class Part:
    """`work` gives its rows as it has them, in at most `budget_s` seconds."""

    name: str
    budget_s: float
    work: Callable[[Machine], Iterator[Row]]


def run(
    parts: Sequence[Part],
    machine: Machine,
    *,
    rows: list[Row] | None = None,
    limit_s: float = math.inf,
    keep: Callable[[Sequence[Row]], None] = lambda rows: None,
) -> list[Row]:
    """All parts, one after the other; what fails is a row that says so.

    Each row is added to `rows` as it is found. All parts together take at most `limit_s`, so that the last ones may get
    less than they may have. After each, `keep` is given what there is. Raises `DeviceLost` for another process to go on.
    """
    rows = [] if rows is None else rows
    end = time.perf_counter() + limit_s
    for number, part in enumerate(parts):
        started = time.perf_counter()
        budget_s = min(part.budget_s, end - started)
        if budget_s < _LEAST_S:
            rows.append(Row(part.name, part.name, None, note=f"no time is left of {limit_s:.0f} s"))
            continue
        try:
            with _at_most(budget_s):
                for row in part.work(machine):
                    rows.append(row)
                    sys.stderr.write(f"  {line(row)}\n")
        except Exception as error:
            traceback.print_exc()
            rows.append(Row(part.name, part.name, None, note=f"{type(error).__name__}: {error}"))
            if not machine.answers():
                keep(rows)
                raise DeviceLost(parts[number + 1 :]) from error
        machine.clear()
        rows.append(
            Row(part.name, "time of this part", time.perf_counter() - started, "s", part.budget_s, is_cost=True)
        )
        sys.stderr.write(f"{part.name}: {rows[-1].value:.1f} s\n")
        keep(rows)
    return rows


def line(row: Row) -> str:
    """A row of the table."""
    value = "-" if row.value is None else f"{row.value:.4g}"
    target = "" if row.target is None else f"{'<=' if row.is_cost else '>='} {row.target:g}"
    return f"{row.part:<12} {row.name:<58} {value:>10} {row.unit:<8} {target:<10} {row.verdict:<7} {row.note}"


def figures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for JSON."""
    return [asdict(row) | {"verdict": row.verdict} for row in rows]


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Inside, `OutOfTime` is raised after so many seconds; as soon as what runs then comes back to Python."""

    def ring(number: int, frame: object) -> None:
        raise OutOfTime(f"more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
