"""A benchmark's figures are written with what they were measured on, and its turns are fair."""

from pathlib import Path

import orjson
import pytest

from benchmarks import result
from benchmarks.result import interleaved, median_interval, median_ratio, publish


def test_figures_are_written_with_their_provenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(result, "FOLDER", tmp_path / "results")
    path = publish("speed", {"ratio": 2.0, "runs": [1, 2]})
    written = orjson.loads(path.read_bytes())
    assert (written["benchmark"], written["ratio"], written["runs"]) == ("speed", 2.0, [1, 2])
    assert set(written["provenance"]) == {"date", "command", "version", "commit", "machine"}
    assert orjson.loads(capsys.readouterr().out) == {"benchmark": "speed", "ratio": 2.0, "file": path.name}


def test_each_comes_first_in_turn() -> None:
    assert list(interleaved(("a", "b", "c"), 2)) == [(0, "a"), (0, "b"), (0, "c"), (1, "b"), (1, "c"), (1, "a")]


def test_ratios_are_taken_round_by_round() -> None:
    assert median_ratio([2.0, 9.0, 30.0], [1.0, 3.0, 5.0]) == {"median": 3.0, "min": 2.0, "max": 6.0}


def test_the_interval_of_a_median_is_of_order_statistics() -> None:
    """Of 12 values the third and the tenth: outside are at most 2 heads of 12 coins, 1.9 % on each side."""
    assert median_interval([float(value) for value in range(12, 0, -1)]) == (3.0, 10.0)
    assert median_interval([2.0, 1.0, 3.0]) == (1.0, 3.0)
