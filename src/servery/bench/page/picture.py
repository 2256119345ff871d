"""A plot as a file of its own, for pages that show it as an image: its style is inside, for light and for dark screens."""

from pathlib import Path

from servery.bench.page.plot import HEIGHT, WIDTH, Plot

STYLE = (Path(__file__).parent / "plot.css").read_text(encoding="utf-8")
_CARD = '<rect width="100%" height="100%" rx="8" style="fill: var(--card)"/>'


def picture(plot: Plot) -> str:
    """The SVG, on a ground of its own, so that it reads well whatever page it is on."""
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{plot.label}">'
    return f"{start}<style>{STYLE}</style>{_CARD}{plot.drawing}</svg>\n"
