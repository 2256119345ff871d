"""What all tests share: what to do when a part that the package index does not have is missing."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.programs import found, wanted

PACKAGES = wanted((Path(__file__).parent / "programs.txt").read_text())


def lacking(what: str) -> None:
    """Skip the running test because `what` is missing, loudly; with CI=true fail it instead."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}; with CI=true nothing may be missing", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def require_program() -> Callable[[str], str]:
    """A function from a program's name to its path, for programs listed in tests/programs.txt."""

    def require(name: str) -> str:
        path = found(name)
        if path is None:
            lacking(f"{name} is missing (Debian: apt-get install {PACKAGES[name]})")
        return str(path)

    return require


@pytest.fixture(autouse=True)
def ctrl_c_is_left_as_it_was() -> Iterator[None]:
    """Ctrl-C works in every test, also where a shell has tests run in the background, which turns it off.

    A test that leaves a handler of its own behind would break another one, far from here.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    left = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert left is signal.default_int_handler
