"""Logs for programs: an object per line, with the fields of whatever says that it has some."""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)
# How engines, which are processes of their own, are told.
VARIABLE = "SERVERY_LOG_FORMAT"
_TEXT = "%(asctime)s %(levelname)-7s %(message)s"


@runtime_checkable
class Fielded(Protocol):
    """Something logged that is more than its text, as the only argument of its line."""

    def __str__(self) -> str:
        """The text."""
        ...

    def fields(self) -> Mapping[str, object]:
        """The same, apart: numbers, words, lists of them."""
        ...


class JsonLines(logging.Formatter):
    """Writes `time` (RFC 3339), `level`, `logger`, `message` and `pid`, then what else is known; `always` is in every line."""

    def __init__(self, **always: str) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in it."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, object] = {"time": at, "level": record.levelname.lower(), "logger": record.name}
        line |= {"message": record.getMessage(), "pid": record.process, **self._always}
        if (request_id := getattr(record, "request_id", None)) is not None:
            line["request_id"] = request_id
        if isinstance(record.args, tuple) and len(record.args) == 1 and isinstance(record.args[0], Fielded):
            line |= {name: value for name, value in record.args[0].fields().items() if value is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up_logging(level: int | str, form: str, text: str = _TEXT, **always: str) -> None:
    """Log to stderr from `level` on, as `text` or as JSON with `always` in every line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(**always) if form == JSON else logging.Formatter(text))
    logging.basicConfig(level=level, handlers=[handler])
