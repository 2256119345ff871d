"""From a path to the routes that live there: whole paths first, then patterns with names in them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Placed(Protocol):
    """Something at a path, for one method."""

    @property
    def path(self) -> str:
        """`/v1/files/{id}`: a name in braces stands for one segment that is not empty; `{id...}` for all that follow."""

    @property
    def method(self) -> str:
        """`GET`, `POST`, ..."""


R = TypeVar("R", bound=Placed)


@dataclass(frozen=True, slots=True)
class Matched(Generic[R]):
    """The routes at a path by their method, and what the names in their pattern stand for."""

    by_method: Mapping[str, R]
    arguments: Mapping[str, str] = field(default_factory=dict)


class Router(Generic[R]):
    """The routes of a server. Two of one method and pattern are a mistake: `ValueError`."""

    def __init__(self, routes: Iterable[R]) -> None:
        self._whole: dict[str, dict[str, R]] = {}
        self._patterns: dict[tuple[str, ...], dict[str, R]] = {}
        for route in routes:
            segments = tuple(route.path.split("/"))
            at = (
                self._patterns.setdefault(segments, {}) if "{" in route.path else self._whole.setdefault(route.path, {})
            )
            if route.method in at:
                raise ValueError(f"there are two routes for {route.method} {route.path}")
            at[route.method] = route

    @property
    def paths(self) -> list[str]:
        """Every path and pattern."""
        return [*self._whole, *("/".join(segments) for segments in self._patterns)]

    def match(self, path: str) -> Matched[R] | None:
        """What is at `path`; None if nothing is. Of several patterns the first that was given counts."""
        if (found := self._whole.get(path)) is not None:
            return Matched(found)
        segments = path.split("/")
        for pattern, by_method in self._patterns.items():
            arguments = _arguments(pattern, segments)
            if arguments is not None:
                return Matched(by_method, arguments)
        return None


def _arguments(pattern: Sequence[str], segments: Sequence[str]) -> dict[str, str] | None:
    """What the names in `pattern` stand for if it fits."""
    takes_rest = pattern[-1].endswith("...}")
    if len(segments) != len(pattern) and not (takes_rest and len(segments) > len(pattern)):
        return None
    arguments: dict[str, str] = {}
    for at, expected in enumerate(pattern):
        given = segments[at]
        if expected.startswith("{"):
            is_rest = expected.endswith("...}")
            value = "/".join(segments[at:]) if is_rest else given
            if not value:
                return None
            arguments[expected[1:-1].removesuffix("...")] = value
        elif expected != given:
            return None
    return arguments
