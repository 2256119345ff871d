"""Logs as an object per line."""

import json
import logging
import sys
from typing import Any

from servery.logs import JsonLines


class Fielded:
    def __str__(self) -> str:
        return "two\nlines"

    def fields(self) -> dict[str, object]:
        return {"model": "m", "nothing": None, "odd": {1}}


def line(message: str, *args: Any, **more: Any) -> dict[str, Any]:
    record = logging.LogRecord("servery.x", logging.WARNING, "x.py", 1, message, args, **{"exc_info": None, **more})
    record.created, record.process = 1_700_000_000.25, 7
    text = JsonLines(engine="amuse").format(record)
    assert "\n" not in text
    return json.loads(text)


def test_a_line_has_what_it_says_apart() -> None:
    always = {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "servery.x",
        "pid": 7,
        "engine": "amuse",
    }
    assert line("%s of %d", "one", 2) == always | {"message": "one of 2"}
    assert line("%s", Fielded()) == always | {"message": "two\nlines", "model": "m", "odd": "{1}"}
    assert line("%s", "plain") == always | {"message": "plain"}
    assert line("100%") == always | {"message": "100%"}


def test_an_exception_stays_on_its_line() -> None:
    try:
        raise ValueError("\ud800")
    except ValueError:
        said = line("failed", exc_info=sys.exc_info())
    assert said["exception"].startswith("Traceback")
    assert said["exception"].endswith("\ud800")
