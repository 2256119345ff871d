"""A plot as a file of its own, for pages that show it as an image: its style is inside, for light and for dark screens."""

from html import escape
from pathlib import Path

from servery.bench.page.plot import HEIGHT, WIDTH, Plot

STYLE = (Path(__file__).parent / "plot.css").read_text(encoding="utf-8")
_HEAD = 26  # pixels above the plot, for its title


def picture(plot: Plot) -> str:
    """The SVG, on a ground of its own, so that it reads well whatever page it is on."""
    height = HEIGHT + _HEAD
    size = f'width="{WIDTH}" height="{height}" viewBox="0 {-_HEAD} {WIDTH} {height}"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{plot.label}">'
    card = f'<rect y="{-_HEAD}" width="{WIDTH}" height="{height}" rx="8" style="fill: var(--card)"/>'
    title = f'<text class="title" x="14" y="{-_HEAD + 20}">{escape(plot.title)}</text>'
    return f"{start}<style>{STYLE}</style>{card}{title}{plot.drawing}</svg>\n"
