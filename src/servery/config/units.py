"""Times, shares and money as people write them: `500ms`, `2s`, `10m`, `90d`; `99%`, `0.99`; dollars, exactly."""

import re
from decimal import Decimal

_SECONDS = {
    "us": Decimal("1e-6"), "ms": Decimal("1e-3"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400),
}  # fmt: skip
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d)", re.ASCII)
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*(%?)", re.ASCII)
_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)", re.ASCII)
_MICRO = 10**6
_LONGEST_S = 36_500 * 86_400.0
_MAX_WEIGHT = 10**6


def parse_duration(given: object) -> float:
    """Seconds; raises `ValueError` for what is no positive time with a unit.

    A bare number is refused: 30 could be seconds to one reader and milliseconds to the next.
    """
    match = _DURATION.fullmatch(given.strip()) if isinstance(given, str) else None
    if match is None:
        raise ValueError(f"{given!r} is not a time with its unit; write for instance 500ms, 2s, 10m or 1h")
    seconds = float(Decimal(match[1]) * _SECONDS[match[2]])
    if seconds == 0:
        raise ValueError(f"{given!r} is no time at all; write more than 0, for instance 500ms")
    if seconds > _LONGEST_S:
        raise ValueError(f"{given!r} is longer than a hundred years; write at most 36500d")
    return seconds


def parse_weight(given: object) -> float:
    """A number greater than 0, up to a million; raises `ValueError`."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= _MAX_WEIGHT:
        raise ValueError(f"{given!r} is no weight; write a number greater than 0 and at most {_MAX_WEIGHT}, such as 2")
    return float(given)


def is_percentile(given: object) -> bool:
    """Whether it looks like `p95`."""
    return isinstance(given, str) and _PERCENTILE.fullmatch(given.strip()) is not None


def parse_percentile(given: object) -> float:
    """The share of `p95`, 0.95; raises `ValueError`."""
    match = _PERCENTILE.fullmatch(given.strip()) if isinstance(given, str) else None
    share = 0.0 if match is None else float(Decimal(match[1]) / 100)
    if not 0.5 <= share < 1:
        raise ValueError(f"{given!r} is no percentile that tells what is slow; write p50 to p99.9")
    return share


def parse_share(given: object) -> float:
    """A number from 0 to 1, of `0.99` or `99%`; raises `ValueError`."""
    match = _SHARE.fullmatch(str(given).strip()) if isinstance(given, int | float | str) else None
    share = None if match is None else float(Decimal(match[1]) / (100 if match[2] else 1))
    if isinstance(given, bool) or share is None or not 0 <= share <= 1:
        raise ValueError(f"{given!r} is not a share; write 0.99 or 99%, from 0 to 1")
    return share


def parse_dollars(given: object) -> int:
    """Micro-dollars, exactly; raises `ValueError` for what is no amount or finer than that."""
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError(f"{given!r} is not an amount of dollars; write a number such as 0.15")
    text = str(given).strip().removeprefix("$").removesuffix("USD").strip()
    if not re.fullmatch(r"\d+(\.\d+)?(e-?\d{1,3})?", text, re.ASCII):
        raise ValueError(f"{given!r} is not an amount of dollars; write a number such as 0.15")
    micro = Decimal(text) * _MICRO
    if micro != int(micro) or micro >= 2**53:
        raise ValueError(f"{given!r} is finer than a millionth of a dollar, or more than can be counted exactly")
    return int(micro)
