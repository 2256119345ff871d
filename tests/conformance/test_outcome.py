"""pytest, run in a process of its own, and what it reports."""

import os
import sys
from pathlib import Path

import pytest

from conformance.errors import CannotRun
from conformance.outcome import Outcome, TestId, read_report, run_pytest


def test_a_suite_is_run_where_it_is_with_what_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(
        "import os\ndef test_told(): assert os.environ['TOLD'] == 'yes'\ndef test_bad(): assert 0"
    )
    report = tmp_path / "report.xml"
    text = run_pytest(Path(sys.executable), tmp_path, ["-q", "test_a.py"], report, {**os.environ, "TOLD": "yes"})
    assert read_report(text) == {
        TestId("test_a", "", "test_told", ""): Outcome.PASSED,
        TestId("test_a", "", "test_bad", ""): Outcome.FAILED,
    }
    assert report.read_text() == text


def test_a_suite_without_tests_cannot_be_judged(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="pytest ended with 4"):
        run_pytest(Path(sys.executable), tmp_path, ["missing.py"], tmp_path / "report.xml", os.environ)
