"""One self-contained page of a measurement: figures, plots drawn as SVG, nothing loaded from anywhere."""

from servery.bench.page.document import write_page
from servery.bench.page.pair import write_pair

__all__ = ["write_page", "write_pair"]
