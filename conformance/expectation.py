"""Which tests of a suite cannot pass, and why; and what a run says of that list."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from conformance.errors import CannotRun
from conformance.outcome import Outcome, TestId


@dataclass(frozen=True, slots=True)
class Reason:
    """Why tests cannot pass: `tests` are `file::function`, of any class and with any parameters, or `...[parameters]`."""

    why: str
    tests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run says: the list is right if the last three are empty.

    `expected` counts the failures of each reason; `unexpected` failed without being listed; `passing` passed although
    they are listed; `unknown` are entries of the list that no test has.
    """

    passed: int
    skipped: int
    expected: Mapping[str, int]
    unexpected: Sequence[TestId]
    passing: Sequence[TestId]
    unknown: Sequence[str]

    @property
    def is_as_listed(self) -> bool:
        """Whether exactly the listed tests failed."""
        return not (self.unexpected or self.passing or self.unknown)

    def __str__(self) -> str:
        failed = sum(self.expected.values())
        lines = [f"{self.passed} passed, {failed} cannot pass, {self.skipped} skipped by the suite"]
        lines += [f"  {count:4} {why}" for why, count in self.expected.items()]
        lines += [f"FAILED, and not listed: {test}" for test in self.unexpected]
        lines += [f"PASSED, though listed as one that cannot: {test}" for test in self.passing]
        lines += [f"listed, but there is no such test: {name}" for name in self.unknown]
        return "\n".join(lines)


def read_reasons(text: str) -> list[Reason]:
    """The `[[cannot]]` tables of a TOML text, each with `why` and `tests`; raises `CannotRun` for a test listed twice."""
    reasons = [Reason(table["why"], tuple(table["tests"])) for table in tomllib.loads(text).get("cannot", [])]
    names = [name for reason in reasons for name in reason.tests]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CannotRun(f"listed twice: {', '.join(twice)}")
    return reasons


def judge(outcomes: Mapping[TestId, Outcome], reasons: Iterable[Reason]) -> Verdict:
    """Compare what happened with what was to be expected."""
    why = {name: reason.why for reason in reasons for name in reason.tests}
    listed = {test: name for test in outcomes if (name := _entry(test, why)) is not None}
    failed = [test for test, outcome in outcomes.items() if outcome is Outcome.FAILED]
    expected = dict.fromkeys(why.values(), 0)
    for test in failed:
        if test in listed:
            expected[why[listed[test]]] += 1
    return Verdict(
        passed=sum(outcome is Outcome.PASSED for outcome in outcomes.values()),
        skipped=sum(outcome is Outcome.SKIPPED for outcome in outcomes.values()),
        expected=expected,
        unexpected=sorted(test for test in failed if test not in listed),
        passing=sorted(test for test in listed if outcomes[test] is Outcome.PASSED),
        unknown=[name for name in why if name not in listed.values()],
    )


def _entry(test: TestId, listed: Mapping[str, str]) -> str | None:
    """The entry that `test` is listed by, the one with its parameters before that of all."""
    name = f"{test.file}::{test.function}"
    exact = f"{name}[{test.variant}]"
    return exact if exact in listed else name if name in listed else None
