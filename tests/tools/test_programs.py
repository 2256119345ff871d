"""Programs that the package index does not have are installed where that may be done, else named."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import lacking
from tools import programs


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The commands that `main` runs, on a machine where only a made-up program is wanted, and absent."""
    listed = tmp_path / "programs.txt"
    listed.write_text("# program  package\nnosuchprogram  nosuch-package  # why\n\n")
    monkeypatch.setattr(programs, "LIST", listed)
    ran: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, **where: "/usr/bin/apt-get" if name == "apt-get" else which(name, **where)
    )
    return ran


def test_as_root_with_apt_the_missing_package_is_installed(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    programs.main()
    assert [command[:2] for command in commands] == [["apt-get", "update"], ["apt-get", "install"]]
    assert commands[1][-1] == "nosuch-package"


def test_without_root_one_line_names_program_and_package(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    programs.main()
    said = "servery: nosuchprogram is missing (Debian: nosuch-package); the tests that need it are skipped.\n"
    assert (commands, capsys.readouterr().out) == ([], said)


def test_what_is_there_is_left_alone(commands: list[list[str]]) -> None:
    programs.LIST.write_text("python3 python3\n")
    programs.main()
    assert commands == []


def test_a_missing_part_is_a_failure_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="nosuchprogram is missing; with CI=true nothing may be missing"):
        lacking("nosuchprogram is missing")


def test_a_missing_part_is_a_skip_on_a_users_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="nosuchprogram is missing"):
        lacking("nosuchprogram is missing")
