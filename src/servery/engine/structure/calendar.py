"""Dates and times that exist, as patterns: the compiler's own formats take 2021-02-29 and a leap second at noon.

RFC 3339 allows what ISO 8601 does with fixed widths: the days that the month has (a leap year is divisible by 4, and by
400 if by 100), seconds to 59, and 23:59:60 in UTC. The year 0000 is left out: many readers of dates, Python's among
them, begin with the year 1. A leap second that is written in another zone is left out, too.
"""

from typing import Any

_QUADRENNIAL = "(0[48]|[2468][048]|[13579][26])"  # two digits, divisible by 4, not 00
_LEAP = rf"([0-9][0-9]{_QUADRENNIAL}|{_QUADRENNIAL}00)"
_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_DAY = "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
_DATE = f"({_YEAR}-{_DAY}|{_LEAP}-02-29)"
_MINUTE = "([01][0-9]|2[0-3]):[0-5][0-9]"
_FRACTION = r"(\.[0-9]+)?"
_TIME = f"({_MINUTE}:[0-5][0-9]{_FRACTION}([zZ]|[+-]{_MINUTE})|23:59:60{_FRACTION}([zZ]|[+-]00:00))"

_PATTERNS = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}[tT ]{_TIME}$"}


def with_calendar(node: dict[str, Any]) -> dict[str, Any]:
    """A schema whose `format` is a date or a time, with the pattern of those that exist beside it."""
    pattern = _PATTERNS.get(str(node.get("format")))
    others = node.get("allOf", [])
    if pattern is None or not isinstance(others, list):
        return node
    return {**node, "allOf": [*others, {"pattern": pattern}]}
