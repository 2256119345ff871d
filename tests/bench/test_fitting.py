"""A table is as wide as the terminal allows; what can be spared goes first, and nothing is cut off."""

from io import StringIO

from rich.console import Console

from servery.bench.fitting import fitting

COLUMNS = {"load": ["5/s", "16/s"], "verdict": ["kept", "requests pile up"], "detail": ["p95 1096.3", "-"]}


def drawn(width: int) -> list[str]:
    file = StringIO()
    console = Console(file=file, width=width)
    console.print(fitting(console, COLUMNS, ("detail", "load", "nothing")))
    return [line.rstrip() for line in file.getvalue().splitlines() if line.strip()]


def test_what_can_be_spared_goes_until_the_rest_fits() -> None:
    assert drawn(80)[0].split() == ["load", "verdict", "detail"]
    assert drawn(30)[0].split() == ["load", "verdict"]
    assert drawn(20)[0].split() == ["verdict"]
    assert [line.strip() for line in drawn(20)[2:]] == ["kept", "requests pile up"]


def test_figures_stand_to_the_right_and_names_to_the_left() -> None:
    assert drawn(80)[2:] == [" 5/s               kept  p95 1096.3", " 16/s  requests pile up           -"]
