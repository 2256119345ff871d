"""The header fields of an answer, as they came."""

from collections.abc import Iterator, Sequence


class Headers:
    """Fields in their order, names as the server wrote them; looked up without regard to case, and repeated ones kept."""

    __slots__ = ("_lower", "raw")

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self.raw = raw
        self._lower: dict[bytes, list[bytes]] | None = None

    def resized(self, length: bytes) -> "Headers":
        """The same fields with another Content-Length, which stands in them once."""
        other = Headers([(name, length if name.lower() == b"content-length" else value) for name, value in self.raw])
        other._lower = {**self._by_name(), b"content-length": [length]}
        return other

    def get(self, name: bytes) -> bytes | None:
        """The value of the first field of that name."""
        lower = self._lower
        values = (self._by_name() if lower is None else lower).get(name.lower())
        return values[0] if values else None

    def get_all(self, name: bytes) -> list[bytes]:
        """The values of all fields of that name."""
        return list(self._by_name().get(name.lower(), ()))

    def __contains__(self, name: bytes) -> bool:
        return name.lower() in self._by_name()

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"Headers({list(self.raw)!r})"

    def _by_name(self) -> dict[bytes, list[bytes]]:
        if self._lower is None:
            self._lower = {}
            for name, value in self.raw:
                self._lower.setdefault(name.lower(), []).append(value)
        return self._lower
