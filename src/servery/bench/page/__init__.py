"""One self-contained page of a measurement: figures, plots drawn as SVG, nothing loaded from anywhere."""

from servery.bench.page.document import write_page

__all__ = ["write_page"]
