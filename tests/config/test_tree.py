"""YAML is read strictly: nothing means two things, and a variable's value is never structure."""

import pytest

from servery.config.tree import MAX_CHARS, parse_tree


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("2026-11-21", "2026-11-21"),
        ("true", True),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-1.5e3", -1500.0),
        ('"12"', "12"),
        ("${X}", 8),
        ('"${X}"', "8"),
        ("a${X}b$$", "a8b$"),
        ("${NONE:-x}", "x"),
        ("${EVIL}", "a: [b, *c]"),
        ("<<", "<<"),
    ],
)
def test_a_scalar_has_one_meaning(written: str, value: object) -> None:
    tree = parse_tree(f"k: {written}", {"X": "8", "EVIL": "a: [b, *c]"})
    assert (tree.value, tree.faults) == ({"k": value}, [])


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ("a: 1\nserver: { port: ${PORT} }\n", "${PORT}"),
        ("a: 1\nserver: {host: x, port: ${PORT:-80}}\n", "${PORT:-80}"),
        ("a: 1\nkeys: [${KEY}]\n", "${KEY}"),
        ("a: 1\nkeys: [a, ${KEY}]\n", "${KEY}"),
    ],
)
def test_a_variable_that_yaml_takes_for_a_mapping_is_told_how_to_be_written(text: str, variable: str) -> None:
    """YAML's own words were: expected ',' or '}', but got '{'."""
    [fault] = parse_tree(text, {"PORT": "8000", "KEY": "k"}).faults
    assert str(fault) == (
        f'line 2: within {{ }} and [ ] a variable takes quotes: write "{variable}", or, where a number is meant, give the '
        f"key a line of its own, `key: {variable}`."
    )


def test_every_value_knows_its_line() -> None:
    tree = parse_tree("a:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n", {})
    paths = [("a",), ("a", "b"), ("a", "c"), ("a", "c", 1), ("a", "c", 1, "d"), ("a", "nothing"), ("nothing",)]
    assert [tree.line(path) for path in paths] == [1, 2, 3, 5, 5, 1, 1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: a: this key was given before, in line 1."),
        ("a: !!python/object:os.system x", "line 1: a: the tag 'tag:yaml.org,2002:python/object:os.system' means"),
        ("a: !secret x", "line 1: a: the tag '!secret' means nothing here"),
        ("[a]: 1", "line 1: a key must be a word."),
        ("a: *b", "line 1: this is not YAML: found undefined alias 'b'."),
        ("a: &a [*a]", "line 1: the file unfolds to more than 100000 values or 50 levels."),
        ("a: ${X", "line 1: a: '${X' is no variable"),
        ("a: ${1X}", "line 1: a: '${1X}' is no variable"),
        ("a: ${EMPTY}", "line 1: a: the environment variable EMPTY is empty; set it, or write ${EMPTY:-default}."),
        ("a: " + "9" * 5000, "line 1: a: this number has 5000 characters; at most 100 are read."),
        ("a: ${NINES}", "line 1: a: this number has 5000 characters; at most 100 are read."),
        ("a: !!int x${WORD}", "line 1: a: this is not what its tag says, tag:yaml.org,2002:int; take the tag away."),
        ("a: !!bool maybe", "line 1: a: this is not what its tag says, tag:yaml.org,2002:bool; take the tag away."),
        ("[" * 5000, "line 1: the file is nested too deeply; at most 50 levels are read."),
        ("#" * (MAX_CHARS + 1), f"line 1: the file has {MAX_CHARS + 1} characters; at most {MAX_CHARS} are read."),
    ],
)
def test_what_is_not_clear_is_refused(text: str, told: str) -> None:
    (fault,) = parse_tree(text, {"EMPTY": "", "NINES": "9" * 5000, "WORD": "canary"}).faults
    assert str(fault).startswith(told)


def test_a_small_file_cannot_stand_for_a_huge_one() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (fault,) = parse_tree("\n".join(lines), {}).faults
    assert "unfolds to more than" in fault.message
