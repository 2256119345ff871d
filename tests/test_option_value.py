"""What is typed after an option: each reader takes what it should and says what is wrong with the rest."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servery import cli
from servery.option_value import at_least, between, byte_size, file_to_write, page_to_write, seconds


@pytest.mark.parametrize(
    ("read", "good", "bad", "rule"),
    [
        (at_least(1), {"1": 1, "+7": 7}, ("0", "-1", "1.5", "x", "", "1e3"), "is not a whole number of at least 1"),
        (seconds, {"0": 0.0, "0.5": 0.5}, ("-1", "nan", "inf", "x", ""), "is not a time in seconds, such as 30 or 0.5"),
        (between(0, 1), {"0": 0.0, "1": 1.0}, ("-0.1", "1.1", "nan", "inf", "x", ""), "is not a number from 0 to 1"),
        (byte_size, {"1KiB": 1024}, ("x", "-1", ""), "is not a size"),
    ],
)
def test_numbers_keep_to_their_range(
    read: Callable[[str], Any], good: dict[str, Any], bad: tuple[str, ...], rule: str
) -> None:
    assert {text: read(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=rule if text != "-1" or read is not byte_size else "."):
            read(text)


def test_a_file_is_written_where_a_folder_is(tmp_path: Path) -> None:
    assert file_to_write("-") == Path("-")
    assert file_to_write(str(tmp_path / "new.json")) == tmp_path / "new.json"
    with pytest.raises(argparse.ArgumentTypeError, match=r"cannot be written: there is no directory '.*none'"):
        file_to_write(str(tmp_path / "none" / "new.json"))
    with pytest.raises(argparse.ArgumentTypeError, match="cannot be written: it is a directory"):
        file_to_write(str(tmp_path))


def test_a_file_that_may_not_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servery.option_value.os.access", lambda path, mode: False)
    with pytest.raises(argparse.ArgumentTypeError, match="cannot be written: that is not permitted there"):
        file_to_write(str(tmp_path / "new.json"))
    assert file_to_write("-") == Path("-")


def options_of(parser: argparse.ArgumentParser, *verbs: str) -> Iterator[tuple[tuple[str, ...], argparse.Action]]:
    """Every option of every verb that takes a value."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from options_of(inner, *verbs, name)
        elif action.option_strings and action.nargs != 0:
            yield verbs, action


# What argparse can say nothing of: names, texts, addresses, and files that are read later.
FREE = (None, Path)
READ = [
    pytest.param(verbs, action, id=f"{' '.join(verbs)} {action.option_strings[-1]}")
    for verbs, action in options_of(cli.parser())
    if action.choices is not None
    or (action.type not in FREE and getattr(action.type, "__name__", "") != "_draft_model")
]


@pytest.mark.parametrize(("verbs", "action"), READ)
def test_every_option_that_is_read_refuses_what_it_cannot_read(
    verbs: tuple[str, ...], action: argparse.Action, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = "nowhere/x" if action.type in (file_to_write, page_to_write) else "!"
    with pytest.raises(SystemExit) as left:
        cli.main([*verbs, action.option_strings[-1], wrong])
    error = capsys.readouterr().err.splitlines()[-1]
    assert left.value.code == cli.USAGE
    assert error.startswith(f"servery {' '.join(verbs)}: error: argument {'/'.join(action.option_strings)}: ")
    assert wrong in error


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        ("serve amuse --tool-format zzz", 2, "there is no tool format 'zzz'; use auto, none, hermes, mistral, pythonic or"),
        ("serve amuse --reasoning-format z", 2, "there is no reasoning format 'z'; use auto, none, think, mistral or"),
        ("serve amuse --keep-alive x", 2, "--keep-alive is 'x'; a time is a number of seconds"),
        ("serve amuse --sleep-dir nowhere", 2, "--sleep-dir is 'nowhere', which is not a directory"),
        ("serve amuse --lora x", 2, "--lora is 'x'; it must be NAME=DIRECTORY"),
        ("serve amuse --lora-dir x", 2, "--lora-dir is 'x', which is not a directory"),
        ("serve amuse --alias x", 2, "--alias is 'x'; it must be ALIAS=MODEL"),
        ("serve amuse --host not/a/host --port 0", 2, "the host 'not/a/host' cannot be resolved"),
        ("serve amuse --api-key é", 2, "an API key is empty or has characters that a header cannot carry"),
        ("serve amuse --threads 100000", 1, "--threads is 100000; it must be at most 1024."),
        ("chat --url ftp://x", 2, "'ftp://x' is not an address"),
        ("chat --load nowhere", 1, "nowhere: No such file or directory"),
        ("eval run nowhere --out o", 1, "nowhere: No such file or directory"),
        ("eval run t --out o --url ftp://x", 2, "'ftp://x' is not an address"),
        ("eval run t --out o --offline nowhere", 1, "nowhere is not a directory; give one with config.json"),
        ("eval run t --out o --judge-url ftp://x", 2, "'ftp://x' is not an address"),
        ("eval compare nowhere t", 1, "nowhere: No such file or directory"),
        ("eval fidelity t --baseline nowhere --candidate amuse", 1, "nowhere is not a directory; give one with"),
        ("eval gate --baseline nowhere --candidate t", 1, "nowhere: No such file or directory"),
        ("eval gate --verify nowhere", 1, "nowhere: No such file or directory"),
        ("quantize nowhere out", 2, "'nowhere' is neither a directory with a checkpoint"),
        ("bench roofline nowhere", 2, "'nowhere' is neither a directory with a checkpoint"),
    ],
)  # fmt: skip
def test_what_is_found_out_later_is_one_line_that_names_it(
    words: str,
    code: int,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(cli.KEY_VARIABLE, raising=False)
    Path("t").write_text('{"id": "a", "prompt": "x", "expected": "y", "scorer": "exact", "stratum": "s"}\n')
    assert cli.main(words.split()) == code
    said = capsys.readouterr().err.splitlines()
    assert complaint in said[0]
    assert said[0].startswith(f"servery {words.split(maxsplit=1)[0]}")
