"""What became of each test of a suite that pytest ran."""

import enum
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from conformance.errors import CannotRun

_NAME = re.compile(r"(?P<function>[^\[]+)(?:\[(?P<variant>.*)\])?")
# Pytest's exit codes when tests were run: all passed, some failed.
_RAN = (0, 1)


class Outcome(enum.Enum):
    """As pytest counts: an error in a fixture is a failure."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, order=True)
class TestId:
    """A test: `file` without `.py` and the folders that all files are in, `owner` its class, `variant` its parameters."""

    __test__ = False  # pytest: this is none of its own

    file: str
    owner: str
    function: str
    variant: str

    def __str__(self) -> str:
        owner = f"{self.owner}." if self.owner else ""
        return f"{self.file}::{owner}{self.function}" + (f"[{self.variant}]" if self.variant else "")


def run_pytest(
    python: Path, folder: Path, arguments: Sequence[str], report: Path, environment: Mapping[str, str]
) -> str:
    """Run pytest in `folder` with `arguments`, shown as it goes; its report, with the text of every failure.

    The report stays in the file `report`. `environment` is all that the process is told. Raises `CannotRun` when no tests
    were run.
    """
    report.unlink(missing_ok=True)
    command = [str(python), "-m", "pytest", *arguments, "-p", "no:cacheprovider", f"--junitxml={report}"]
    ended = subprocess.run(command, cwd=folder, env=dict(environment), stdout=sys.stderr, check=False)  # noqa: S603
    if ended.returncode not in _RAN:
        raise CannotRun(f"pytest ended with {ended.returncode} in {folder}; see above")
    return report.read_text()


def read_report(report: str, within: str = "") -> Mapping[TestId, Outcome]:
    """The outcomes in pytest's JUnit report; files are named from the folder `within`, in which all are."""
    cases = ElementTree.fromstring(report).iter("testcase")  # noqa: S314
    return {_test(case.attrib["classname"], case.attrib["name"], within): _outcome(case) for case in cases}


def _test(place: str, name: str, within: str) -> TestId:
    """`place` is `tests.api_resources.test_models.TestModels`: a class's name begins with a capital."""
    parts = place.split(".")
    owner = parts.pop() if parts[-1][:1].isupper() else ""
    found = _NAME.fullmatch(name)
    if found is None:
        raise CannotRun(f"pytest named a test {name!r}")
    return TestId("/".join(parts).removeprefix(f"{within}/"), owner, found["function"], found["variant"] or "")


def _outcome(case: ElementTree.Element) -> Outcome:
    kinds = {child.tag for child in case}
    if kinds & {"failure", "error"}:
        return Outcome.FAILED
    return Outcome.SKIPPED if "skipped" in kinds else Outcome.PASSED
