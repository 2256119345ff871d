"""Labels that others choose: so many different ones, and beyond them "other", so that nobody can make series without end."""

import re

OTHER = "other"
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class BoundedNames:
    """The first `limit` names that come stay what they are, if they look like names."""

    __slots__ = ("_known", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """What stands for `name` in a label."""
        found = self._known.get(name)
        if found is not None:
            return found
        if len(self._known) >= self._limit or not _NAME.fullmatch(name):
            return OTHER
        self._known[name] = name
        return name
