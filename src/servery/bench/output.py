"""Where the figures of a measurement go: the terminal, a JSON file or stdout, a page."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from servery.bench.options import BenchOptions
from servery.bench.report import as_json

_WIDTH_OF_A_FILE = 120  # columns, where stdout is no terminal: nothing is left out there for want of room


def put_out(
    report: object, options: BenchOptions, show: Callable[[Console], None], write_page: Callable[[Path], None]
) -> None:
    """Show `report`, or print its JSON alone where that goes to stdout; write the files that are wanted.

    Raises `OSError` for what cannot be written, when all else was.
    """
    with ExitStack() as outputs:  # last in, first out; each is made whatever befalls the others
        if options.json_path == Path("-"):
            outputs.callback(_print_json, report)
        else:
            outputs.callback(lambda: show(Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)))
            if options.json_path is not None:
                outputs.callback(options.json_path.write_bytes, as_json(report))
        if options.html_path is not None:
            outputs.callback(write_page, options.html_path)


def _print_json(report: object) -> None:
    sys.stdout.buffer.write(as_json(report))
    sys.stdout.buffer.flush()
