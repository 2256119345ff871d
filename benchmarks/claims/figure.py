"""How figures are written on the page."""

from benchmarks.claims.claim import Reading

_COUNTS = frozenset({"blocks", "tokens", "calls", "B", "$"})


def shown(reading: Reading, unit: str) -> str:
    """The figure with its unit, the smallest and the largest of its rounds, and what it is of."""
    ends = [end for end in (reading.low, reading.high) if end is not None]
    written = [number(end, unit) for end in ends]
    between = f" ({written[0]} to {written[1]})" if len(set(written)) == 2 else ""
    return f"{reading.of}: **{_with_unit(number(reading.value, unit), unit)}**{between}"


def _with_unit(written: str, unit: str) -> str:
    if unit.startswith("$"):
        return f"${written}{unit[1:]}"
    return f"{written}{'' if unit == '/s' else ' '}{unit}"


def number(value: float, unit: str) -> str:
    """As many digits as say something."""
    if unit in _COUNTS:
        return f"{value:,.0f}"
    if unit == "points":
        return f"{value:.2f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.0f}" if unit in ("x", "%") else f"{value:.1f}"
    return f"{value:.2f}" if unit in ("x", "GB", "MB", "s", "M tokens", "$ M") else f"{value:.1f}"
