"""A progress bar on stderr, for evaluations that take a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Advance(Protocol):
    """What tells a bar of work that is done."""

    def __call__(self, pieces: int = 1) -> None:
        """Move on by so many pieces."""


@contextmanager
def progress(name: str, total: int, done: int) -> Iterator[Advance]:
    """A bar, shown where stderr is a terminal; yields what to call after each piece of work."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal or not total) as bar:
        shown = bar.add_task(name, total=total, completed=done)

        def advance(pieces: int = 1) -> None:
            bar.advance(shown, pieces)

        yield advance
