"""A plot as SVG: lines, bands, points and marks over two axes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from servery.bench.page.axis import Axis, shown

WIDTH, HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 62
_LABEL = 8.5  # width of a character of a legend in pixels, about

Points = Sequence[tuple[float, float]]


@dataclass(slots=True)
class Plot:
    """Draw into it, then take `svg`. Colours are numbered: those of the page's style sheet, told apart by anybody."""

    title: str
    x_name: str
    y_name: str
    x: Axis
    y: Axis
    _parts: list[str] = field(default_factory=list)
    _legend: list[tuple[int, str]] = field(default_factory=list)

    def line(self, points: Points, colour: int, name: str = "", *, has_dots: bool = False) -> None:
        """Straight between the points, in their order."""
        if not points:
            return
        path = " ".join(f"{'L' if index else 'M'}{self._at(*point)}" for index, point in enumerate(points))
        self._parts.append(f'<path class="line c{colour}" d="{path}"/>')
        if has_dots:
            self.dots(points, colour, radius=3)
        self._name(colour, name)

    def steps(self, points: Points, colour: int, name: str = "") -> None:
        """A staircase: each height holds until the next point."""
        corners: list[tuple[float, float]] = []
        for point in points:
            if corners:
                corners.append((point[0], corners[-1][1]))
            corners.append(point)
        self.line(corners, colour, name)

    def dots(self, points: Points, colour: int, name: str = "", *, radius: float = 1.6) -> None:
        """One dot each."""
        for point in points:
            x, y = self._at(*point).split(",")
            self._parts.append(f'<circle class="dot c{colour}" cx="{x}" cy="{y}" r="{radius}"/>')
        self._name(colour, name)

    def intervals(self, bars: Sequence[tuple[float, float, float]], colour: int) -> None:
        """Upright bars from low to high at each x: (x, low, high)."""
        for x, low, high in bars:
            self._parts.append(f'<path class="bar c{colour}" d="M{self._at(x, low)} L{self._at(x, high)}"/>')

    def columns(self, bars: Sequence[tuple[float, float, float]], colour: int, name: str = "") -> None:
        """Filled boxes from the ground: (from x, to x, height)."""
        for left, right, height in bars:
            corner, foot = self._at(left, height), self._at(right, self.y.low)
            (x, y), (to_x, to_y) = (map(float, pair.split(",")) for pair in (corner, foot))
            size = f'width="{max(to_x - x - 1, 0.5):.1f}" height="{to_y - y:.1f}"'
            self._parts.append(f'<rect class="box c{colour}" x="{x:.1f}" y="{y:.1f}" {size}/>')
        self._name(colour, name)

    def mark(self, name: str, *, x: float | None = None, y: float | None = None) -> None:
        """A dashed line across the plot, with a word at its end."""
        if x is not None:
            ends = self._at(x, self.y.low), self._at(x, self.y.high)
            anchor = "end" if self.x.place(x) > 0.6 else "start"
            place, shift = ends[1], -5 if anchor == "end" else 5
        else:
            ends = self._at(self.x.low, y or 0.0), self._at(self.x.high, y or 0.0)
            place, anchor, shift = ends[1], "end", -4
        at_x, at_y = (float(number) for number in place.split(","))
        down = 26 if x is not None else -4  # below the words at the ends of level lines
        text = f'<text class="mark" x="{at_x + shift:.1f}" y="{at_y + down:.1f}" text-anchor="{anchor}">{escape(name)}</text>'
        self._parts.append(f'<path class="guide" d="M{ends[0]} L{ends[1]}"/>{text}')

    @property
    def svg(self) -> str:
        """The whole picture, with its title for readers of screens."""
        frame = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{self.label}">'
        return f"<figure><figcaption>{escape(self.title)}</figcaption>{frame}{self.drawing}</svg></figure>"

    @property
    def label(self) -> str:
        """What it shows, in words that fit into an attribute."""
        return escape(f"{self.title}: {self.y_name} over {self.x_name}")

    @property
    def drawing(self) -> str:
        """What is inside of the picture: grid, lines and legend."""
        return "".join([*self._grid(), *self._parts, *self._names()])

    def _at(self, x: float, y: float) -> str:
        across, up = self.x.place(x), self.y.place(y)
        left = _LEFT + across * (WIDTH - _LEFT - _RIGHT)
        return f"{left:.1f},{HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM):.1f}"

    def _grid(self) -> list[str]:
        parts = []
        for tick in self.x.ticks:
            x, foot = self._at(tick, self.y.low).split(",")
            parts.append(f'<path class="grid" d="M{x},{_TOP} V{foot}"/>')
            parts.append(f'<text x="{x}" y="{float(foot) + 15}" text-anchor="middle">{shown(tick)}</text>')
        for tick in self.y.ticks:
            x, y = self._at(self.x.low, tick).split(",")
            parts.append(f'<path class="grid" d="M{x},{y} H{WIDTH - _RIGHT}"/>')
            parts.append(f'<text x="{float(x) - 6}" y="{float(y) + 4}" text-anchor="end">{shown(tick)}</text>')
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{HEIGHT - 30}" text-anchor="middle">{escape(self.x_name)}</text>')
        upright = (HEIGHT - _BOTTOM + _TOP) / 2
        parts.append(
            f'<text transform="translate(13,{upright}) rotate(-90)" text-anchor="middle">{escape(self.y_name)}</text>'
        )
        return parts

    def _name(self, colour: int, name: str) -> None:
        if name:
            self._legend.append((colour, name))

    def _names(self) -> list[str]:
        widths = [36 + _LABEL * len(name) for _, name in self._legend]
        x = (WIDTH + _LEFT - _RIGHT - sum(widths)) / 2
        parts = []
        for (colour, name), width in zip(self._legend, widths, strict=True):
            parts.append(f'<path class="line c{colour}" d="M{x:.1f},{HEIGHT - 12} h14"/>')
            parts.append(f'<text x="{x + 19:.1f}" y="{HEIGHT - 8}">{escape(name)}</text>')
            x += width
        return parts
