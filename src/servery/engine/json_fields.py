"""A JSON file of a checkpoint, read field by field: every error names the file, the field and what was expected."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from servery.engine.errors import LoadError

# No number of a model is larger, and products of numbers that are would overflow.
_LARGEST = 1e30


class JsonFields:
    """The fields of one JSON object. A field that is absent or null counts as missing.

    `prefix` names the object inside its file (`"rope_scaling."`) so that errors say `rope_scaling.factor`.
    """

    def __init__(self, path: Path, fields: Mapping[str, Any], prefix: str = "") -> None:
        self.path = path
        self._fields = fields
        self._prefix = prefix

    @classmethod
    def read(cls, path: Path) -> "JsonFields":
        """Read the object in `path`; raises `LoadError` when it cannot be read or is not a JSON object."""
        return cls(path, _read(path))

    def error(self, name: str, rule: str) -> LoadError:
        """The error for field `name`: what is there and what must be there."""
        if name not in self._fields:
            return LoadError(f"{self.path}: {self._prefix}{name} is missing; {rule}.")
        return LoadError(f"{self.path}: {self._prefix}{name} is {_shown(self._fields[name])}; {rule}.")

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._fields.get(name) is not None

    def is_given(self, name: str) -> bool:
        """Whether the field is there, be it null."""
        return name in self._fields

    def raw(self, name: str) -> Any:
        """The field as it stands, None when it is missing."""
        return self._fields.get(name)

    def count(self, name: str, default: int | None = None, *, most: int | None = None) -> int:
        """A whole number of at least 1 and at most `most`."""
        value = self._fields.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(name, "it must be a whole number of at least 1")
        return self._limited(name, value, most)

    def count_of(self, name: str, supported: Sequence[int], default: int | None = None) -> int:
        """A whole number that is one of `supported`."""
        value = self.count(name, default)
        if value not in supported:
            raise self.error(name, f"supported: {', '.join(map(str, supported))}")
        return value

    def block(self, name: str) -> tuple[int, int]:
        """The rows and columns of a block, as a list (`[128, 64]`) or as text (`"128x64"`)."""
        value = self._fields.get(name)
        if isinstance(value, str):
            value = [int(part) if part.isdecimal() else 0 for part in value.split("x")]
        counts = value if isinstance(value, list) else []
        if len(counts) != 2 or not all(type(n) is int and n > 0 for n in counts):
            raise self.error(name, "it must be two numbers: rows and columns of a block")
        return counts[0], counts[1]

    def optional_count(self, name: str) -> int | None:
        """A whole number of at least 1, or None when the field is missing."""
        return self.count(name) if self.has(name) else None

    def whole(self, name: str, default: int, *, most: int | None = None) -> int:
        """A whole number of at least 0 and at most `most`."""
        value = self._fields.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.error(name, "it must be a whole number of at least 0")
        return self._limited(name, value, most)

    def number(self, name: str, default: float | None = None) -> float:
        """A number greater than 0 and below 1e30."""
        value = self._fields.get(name)
        value = default if value is None else value
        if not _is_number(value):
            raise self.error(name, f"it must be a number greater than 0, and less than {_LARGEST:.0e}")
        return float(value)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of numbers greater than 0 and below 1e30."""
        values = self._fields.get(name)
        if not isinstance(values, list) or not all(map(_is_number, values)):
            raise self.error(name, f"it must be a list of numbers greater than 0, and less than {_LARGEST:.0e}")
        return tuple(map(float, values))

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self._fields.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.error(name, "it must be true or false")
        return value

    def choice(self, name: str, options: Sequence[str], default: str | None = None) -> str:
        """One of `options`, in any mix of cases."""
        value = self._fields.get(name)
        value = default if value is None else value
        if not isinstance(value, str) or value.lower() not in options:
            raise self.error(name, f"supported: {', '.join(options)}")
        return value.lower()

    def strings(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty when the field is missing."""
        value = self._fields.get(name)
        values = [] if value is None else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise self.error(name, "it must be a list of strings")
        return tuple(values)

    def token_ids(self, name: str) -> frozenset[int]:
        """One token id or a list of them; empty when the field is missing."""
        value = self._fields.get(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if any(not isinstance(item, int) or isinstance(item, bool) or item < 0 for item in ids):
            raise self.error(name, "it must be a token id or a list of token ids")
        return frozenset(ids)

    def names(self) -> tuple[str, ...]:
        """Which fields there are, in the file's order."""
        return tuple(self._fields)

    def inner(self, name: str) -> "JsonFields | None":
        """The object in the field, None when it is missing."""
        value = self._fields.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(name, "it must be an object")
        return JsonFields(self.path, value, f"{self._prefix}{name}.")

    def _limited(self, name: str, value: int, most: int | None) -> int:
        if most is not None and value > most:
            raise self.error(name, f"it must be at most {most}")
        return value


def read_optional_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file that a checkpoint may lack: {} if it does. Raises `LoadError` as `JsonFields.read`."""
    return _read(path) if path.exists() else {}


def _read(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():  # to open a pipe waits for a writer
        raise LoadError(f"{path} is not a file.")
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise LoadError(f"{path} does not exist; a model directory in Hugging Face layout has it.") from error
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path} is not valid JSON: {error}. Download it again.") from error
    if not isinstance(value, dict):
        raise LoadError(f"{path} holds a {type(value).__name__}; it must be a JSON object.")
    return value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _LARGEST


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
