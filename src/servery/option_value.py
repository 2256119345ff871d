"""What is typed after an option becomes a value, or argparse's complaint about it."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path

from servery.byte_size import parse_byte_size

_STDOUT = Path("-")


def at_least(low: int) -> Callable[[str], int]:
    """A reader of whole numbers from `low` up."""

    def count(text: str) -> int:
        if not text.strip().lstrip("-+").isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {low}")
        return int(text)

    return count


def seconds(text: str) -> float:
    """A time: `30` or `0.5`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds, such as 30 or 0.5")
    return value


def between(low: float, high: float) -> Callable[[str], float]:
    """A reader of numbers from `low` to `high`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return number


def file_to_write(text: str) -> Path:
    """A file that can be made, or - for stdout: it is said before any work is done that its folder is not there."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: there is no directory {str(path.parent)!r}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: it is a directory")
    if path != _STDOUT and not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: that is not permitted there")
    return path


def page_to_write(text: str) -> Path:
    """As `file_to_write`, but a page has no place on stdout beside what is shown there."""
    path = file_to_write(text)
    if path == _STDOUT:
        raise argparse.ArgumentTypeError("a page goes to a file; write its name in place of -")
    return path


def byte_size(text: str) -> int:
    """A number of bytes: `4GiB`."""
    try:
        return parse_byte_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
