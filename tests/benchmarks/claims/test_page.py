"""The page has every claim with what it needs to be judged, and is rendered from a result alone."""

from pathlib import Path
from typing import Any

import orjson

from benchmarks.claims.__main__ import DOCS, newest
from benchmarks.claims.claim import Claim, Reading, Topic, stated
from benchmarks.claims.measurement import Figures, Measurement, Readings
from benchmarks.claims.measurements import MEASUREMENTS
from benchmarks.claims.page import page, write
from servery.bench.page.axis import Axis
from servery.bench.page.plot import Plot

RESULT: dict[str, Any] = {
    "runs": {"speed": {"faster": 1.5}},
    "took_s": {"speed": 90.0},
    "provenance": {
        "date": "2026-11-21T10:00:00+00:00",
        "version": "1",
        "commit": "abc",
        "machine": {"cpu": "A CPU", "cores": 2},
    },
}
TOPICS = [
    Topic(
        "Speed",
        (
            Claim(
                key="fast", says="It is twice as fast", texts=("serving",), quoted="2 x", measured="speed", unit="x",
                at_least=2.0, remark="By the clock.", otherwise="It is a small machine.",
            ),
            Claim(key="wings", says="It flies", texts=("explained", "roundtable"), reason="needs wings"),
        ),
    )
]  # fmt: skip


def _readings(figures: Figures) -> Readings:
    return {"fast": [Reading("this", figures["faster"], 1.4, 1.6)]}


def _plots(figures: Figures) -> dict[str, Plot]:
    plot = Plot("Speed", "x", "y", Axis(0.0, 1.0), Axis(0.0, 2.0))
    plot.line([(0.0, 1.0), (1.0, figures["faster"])], 1, "this")
    return {"speed": plot}


SPEED = {"speed": Measurement("speed", 1.0, "A run.", lambda stage: {}, _readings, _plots)}


def test_a_claim_is_told_with_figure_range_verdict_reason_and_command() -> None:
    rendered = page(TOPICS, SPEED, RESULT)
    assert (
        "| It is twice as fast | Chapter 12 | 2 x | this: **1.50 x** (1.40 to 1.60) | **not confirmed** (1) | `speed` |\n"
        "| It flies | Explained, Roundtable |  | - (needs wings) | not measurable here |  |\n\n"
        "1. By the clock. It is a small machine.\n"
    ) in rendered
    assert "Of 2 statements: 1 not confirmed, 1 not measurable here.\n" in rendered
    assert "A CPU, 2 cores; 2026-11-21, version 1, commit abc.\n" in rendered
    assert "![Speed: y over x](claims/speed.svg)" in rendered
    assert "| `speed` | A run. | 90 s |" in rendered


def test_page_and_pictures_are_written(tmp_path: Path) -> None:
    assert write(tmp_path, TOPICS, SPEED, RESULT).read_text() == page(TOPICS, SPEED, RESULT)
    assert (tmp_path / "claims" / "speed.svg").read_text().startswith('<svg xmlns="http://www.w3.org/2000/svg"')


def test_what_a_run_lacks_is_told() -> None:
    reason = {"left_out": {"speed": "this client sent requests late"}}
    rendered = page(TOPICS, SPEED, {**RESULT, "runs": {}, "took_s": {}, **reason})
    assert "`speed` was left out of this run: this client sent requests late.\n" in rendered
    assert "| It is twice as fast | Chapter 12 | 2 x | - | not in this run" in rendered
    assert "| `speed` | A run. | not in this run |" in rendered


def test_the_page_in_the_documentation_is_that_of_the_newest_result() -> None:
    """After a change of the lists or the page: make claims ARGS="--render"."""
    result = orjson.loads(newest().read_bytes())
    assert (DOCS / "claims.md").read_text() == page(stated(), MEASUREMENTS, result)
