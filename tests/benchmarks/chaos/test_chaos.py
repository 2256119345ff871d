"""The short form of the run: half a minute of trouble every few seconds, on real processes."""

from pathlib import Path

import pytest

from benchmarks.chaos.run import ChaosOptions, run


@pytest.mark.slow
def test_whatever_falls_clients_and_ledger_agree_and_nothing_is_left_behind(tmp_path: Path) -> None:
    options = ChaosOptions(minutes=0.6, rate=3.0, trouble_every_s=3.0, most_reference_tokens=60)
    figures = run(options, tmp_path)
    assert figures["violations"] == []
    assert figures["trouble"]
    assert figures["counts"]["exchanges"] == figures["rows"] - figures["counts"]["rows of batches"]
