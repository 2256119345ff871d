"""What is typed after an option becomes a value, or argparse's complaint about it."""

import argparse
import math
from collections.abc import Callable

from servery.byte_size import parse_byte_size


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


def byte_size(text: str) -> int:
    """A number of bytes: `4GiB`."""
    try:
        return parse_byte_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
