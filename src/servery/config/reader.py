"""Reading a tree section by section: what is wrong is noted with its line, and reading goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from servery.byte_size import parse_byte_size
from servery.config import errors, sections
from servery.config.access import limits_of
from servery.config.errors import Fault
from servery.config.secret import Secret
from servery.config.tree import Tree
from servery.config.types import Limits
from servery.config.validation import explain

S = TypeVar("S", bound=msgspec.Struct)
V = TypeVar("V")


class Reader:
    """Turns values of a tree into what they mean; relative paths in the file are below `folder`.

    `faults` are what was wrong so far, `noted` how often something was found to be, also what is not told twice; `files`
    is what was read besides the tree.
    """

    def __init__(self, tree: Tree, folder: Path) -> None:
        self.faults: list[Fault] = list(tree.faults)
        self.noted = 0
        self.files: list[Path] = []
        # A list without one of its items is told of as a whole.
        lists = {fault.path[:-1] for fault in tree.faults if fault.path and isinstance(fault.path[-1], int)}
        self._unread = ({fault.path for fault in tree.faults} | lists) - {()}
        self.folder = folder
        self._tree = tree

    def section(self, kind: type[S], value: Any, at: errors.Path) -> S | None:
        """`value` as a section; None, and a fault, when it is none."""
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            self.fault(*explain(str(error), kind, at))
            return None

    def read(self, parse: Callable[[Any], V], given: Any, at: errors.Path, otherwise: V) -> V:
        """What `parse` makes of `given`; `otherwise`, and a fault, when it raises `ValueError`."""
        try:
            return parse(given)
        except ValueError as error:
            self.fault(at, f"{error}.")
            return otherwise

    def limits(self, section: sections.LimitsSection, at: errors.Path) -> Limits:
        """Limits on what somebody may take."""
        return self.read(limits_of, section, at, Limits())

    def key(self, text: str, at: errors.Path) -> Secret:
        """A key, which must fit into a header."""
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            self.fault(at, "a key must have printable ASCII characters without spaces, and at least one.")
        return Secret(text)

    def path(self, text: str, at: errors.Path) -> Path:
        """A file that the configuration names, which must be there."""
        path = self.folder / Path(text).expanduser()
        if not path.is_file():
            self.fault(at, f"'{path}' is no file.")
        self.files.append(path)
        return path

    def file(self, text: str, at: errors.Path) -> str:
        """The text of a file that the configuration names."""
        path = self.path(text, at)
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            if path.is_file():
                self.fault(at, f"'{path}' cannot be read: {error}.")
            return "-"

    def fault(self, path: errors.Path, message: str) -> None:
        """Note what is wrong at `path`, unless its text could not be had: that was told."""
        self.noted += 1
        if path in self._unread:
            return
        self.faults.append(Fault(self._tree.line(path), path, message))

    def size(self, given: str | int, at: errors.Path) -> int:
        """A number of bytes, as people write it."""
        return self.read(lambda text: parse_byte_size(str(text)), given, at, 1)
