"""Every attack that the threat model names has a test, and that test is there."""

import re

from tests.documentation import ROOT

PAGE = (ROOT / "docs" / "threat-model.md").read_text()
ROWS = re.findall(r"^\| (\d+) [^|]* \| (.*) \|$", PAGE, re.MULTILINE)


def test_each_attack_of_the_list_is_named_once() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(43, 65))


def test_each_named_test_exists() -> None:
    missing = []
    for number, cell in ROWS:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", cell)
        assert named, number
        missing += [f"{path}::{name}" for path, name in named if f"def {name}(" not in (ROOT / path).read_text()]
    assert missing == []
