"""The list of tests that cannot pass is right only if exactly these fail."""

import pytest

from conformance.errors import CannotRun
from conformance.expectation import Reason, Verdict, judge, read_reasons
from conformance.outcome import Outcome, TestId, read_report
from conformance.sdk import ANTHROPIC, OPENAI, Sdk

REPORT = """<testsuites><testsuite>
<testcase classname="tests.api.chat.test_a.TestSync" name="test_x[loose]" time="0"><failure message="m">text</failure></testcase>
<testcase classname="tests.api.chat.test_a.TestAsync" name="test_x[strict]"><error message="m"/></testcase>
<testcase classname="tests.api.chat.test_a.TestAsync" name="test_x[aiohttp]"/>
<testcase classname="tests.api.test_b" name="test_y"><skipped message="m"/></testcase>
</testsuite></testsuites>"""


def test_a_report_is_read_by_file_class_function_and_parameters() -> None:
    outcomes = read_report(REPORT, "tests/api")
    assert outcomes == {
        TestId("chat/test_a", "TestSync", "test_x", "loose"): Outcome.FAILED,
        TestId("chat/test_a", "TestAsync", "test_x", "strict"): Outcome.FAILED,
        TestId("chat/test_a", "TestAsync", "test_x", "aiohttp"): Outcome.PASSED,
        TestId("test_b", "", "test_y", ""): Outcome.SKIPPED,
    }
    assert list(map(str, outcomes))[1:] == [
        "chat/test_a::TestAsync.test_x[strict]",
        "chat/test_a::TestAsync.test_x[aiohttp]",
        "test_b::test_y",
    ]


def test_a_run_is_as_listed_when_exactly_the_listed_tests_fail() -> None:
    reasons = [Reason("because", ("chat/test_a::test_x[loose]", "chat/test_a::test_x[strict]"))]
    verdict = judge(read_report(REPORT, "tests/api"), reasons)
    assert verdict == Verdict(1, 1, {"because": 2}, [], [], [])
    assert verdict.is_as_listed
    assert str(verdict) == "1 passed, 2 cannot pass, 1 skipped by the suite\n     2 because"


def test_an_entry_without_parameters_is_of_all_of_them() -> None:
    verdict = judge(read_report(REPORT, "tests/api"), [Reason("because", ("chat/test_a::test_x",))])
    passing = [TestId("chat/test_a", "TestAsync", "test_x", "aiohttp")]
    assert verdict == Verdict(1, 1, {"because": 2}, [], passing, [])
    assert not verdict.is_as_listed


def test_what_is_not_listed_or_is_listed_in_vain_is_told() -> None:
    verdict = judge(
        read_report(REPORT, "tests/api"), [Reason("because", ("chat/test_a::test_x[loose]", "test_b::test_z"))]
    )
    assert not verdict.is_as_listed
    assert str(verdict).splitlines()[1:] == [
        "     1 because",
        "FAILED, and not listed: chat/test_a::TestAsync.test_x[strict]",
        "listed, but there is no such test: test_b::test_z",
    ]


def test_a_test_listed_twice_is_a_mistake() -> None:
    table = '[[cannot]]\nwhy = "a"\ntests = ["f::t"]\n'
    assert read_reasons(table) == [Reason("a", ("f::t",))]
    with pytest.raises(CannotRun, match="listed twice: f::t"):
        read_reasons(table + table)


@pytest.mark.parametrize("sdk", [OPENAI, ANTHROPIC], ids=lambda sdk: sdk.package)
def test_the_lists_that_are_kept_here_can_be_read(sdk: Sdk) -> None:
    reasons = read_reasons(sdk.list_file.read_text())
    files = {name.partition("::")[0] for reason in reasons for name in reason.tests}
    assert all(any(file == each or file.startswith(f"{each}/") for each in sdk.files) for file in files)
    assert all(reason.why and reason.tests for reason in reasons)
