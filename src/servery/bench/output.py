"""Where the figures of a measurement go: the terminal, a JSON file or stdout, a page."""

import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from servery.bench.options import BenchOptions
from servery.bench.report import as_json


def put_out(
    report: object, options: BenchOptions, show: Callable[[Console], None], write_page: Callable[[Path], None]
) -> None:
    """Show `report`, or print its JSON alone where that goes to stdout; write the files that are wanted."""
    if options.json_path == Path("-"):
        sys.stdout.buffer.write(as_json(report))
    else:
        show(Console())
        if options.json_path is not None:
            options.json_path.write_bytes(as_json(report))
    if options.html_path is not None:
        write_page(options.html_path)
