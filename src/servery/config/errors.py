"""What is wrong with a configuration, and where."""

from collections.abc import Sequence
from dataclasses import dataclass

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: at `line` (from 1) of the file, with the key at `path`."""

    line: int
    path: Path
    message: str

    def __str__(self) -> str:
        key = shown_path(self.path)
        return f"line {self.line}: {key + ': ' if key else ''}{self.message}"


class ConfigError(Exception):
    """A configuration cannot be used; `faults` are all that were found, in the order of their lines."""

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        self.source = source
        self.faults = tuple(sorted(faults, key=lambda fault: fault.line))
        super().__init__("\n".join(f"{source}: {fault}" for fault in self.faults))


def shown_path(path: Path) -> str:
    """`models.chat.tiers[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
