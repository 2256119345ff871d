"""Tool calls written as a Python list: `[get_weather(city="Paris"), add(a=1, b=2)]`.

Values are Python's literals, or JSON's, which differ in `true`, `false` and `null` and in numbers beyond Python's range.
Names need be no identifiers: functions and arguments may be called `from` or `get-weather`.
"""

import ast
import json
import re
from typing import NoReturn

from servery.engine.parsing.json_call import MalformedCall
from servery.engine.parsing.piece import Arguments, CallStart, Content, Piece

NAME = r"""[^\s()\[\]{},='"]+"""
_OPEN, _CLOSE = "([{", ")]}"
_CALL = re.compile(rf"({NAME})\s*\((.*)\)", re.DOTALL)
_ARGUMENT = re.compile(rf"\s*({NAME})\s*=(.*)", re.DOTALL)


class _Nesting:
    """How deep in brackets, and whether in a string, a text read character by character is."""

    def __init__(self) -> None:
        self.depth = 0
        self.quote = ""
        self._is_escaped = False

    def take(self, char: str) -> None:
        if self.quote:
            self._take_in_string(char)
        elif char in "\"'":
            self.quote = char
        elif char in _OPEN:
            self.depth += 1
        elif char in _CLOSE:
            self.depth -= 1

    def _take_in_string(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == self.quote:
            self.quote = ""


class PythonCalls:
    """A list of calls; each comes out when its closing parenthesis has been read."""

    def __init__(self, names: frozenset[str] | None) -> None:
        """`names` are the functions that may be called, None for any."""
        self._names = names
        self._call = ""  # the text of the call being read
        self._nesting = _Nesting()
        self._has_calls = False
        self.is_complete = False

    def feed(self, text: str) -> tuple[list[Piece], str]:
        """What `text` adds, and what is left of it after the list's end; raises `MalformedCall`."""
        pieces: list[Piece] = []
        for at, char in enumerate(text):
            if self.is_complete:
                return pieces, text[at:]
            try:
                self._take(char, pieces)
            except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
                raise MalformedCall([*pieces, *self.finish()], text[at:]) from None
        return pieces, ""

    def finish(self) -> list[Piece]:
        """What was read of a further call, where the message breaks off or turns out to be something else."""
        return [Content(self._call.lstrip())] if self._has_calls else []

    def _take(self, char: str, pieces: list[Piece]) -> None:
        nesting = self._nesting
        nesting.take(char)
        if nesting.depth < 1 or (nesting.depth == 1 and char == "," and not nesting.quote):
            self._end_call(pieces)
            self.is_complete = nesting.depth < 1
        elif not (nesting.depth == 1 and char == "[" and not self._call):
            self._call += char

    def _end_call(self, pieces: list[Piece]) -> None:
        call = _CALL.fullmatch(self._call.strip())
        if call is None or (self._names is not None and call[1] not in self._names):
            raise ValueError
        pieces += [CallStart(call[1]), Arguments(_arguments(call[2]))]
        self._call, self._has_calls = "", True


def _arguments(text: str) -> str:
    """Keyword arguments as a JSON object; raises `ValueError` and what Python's own parser raises."""
    arguments: dict[str, str] = {}
    pieces = _split(text)
    if not pieces[-1].strip():
        pieces.pop()  # no argument, or a comma after the last
    for piece in pieces:
        argument = _ARGUMENT.fullmatch(piece)
        if argument is None or argument[1] in arguments:
            raise ValueError
        arguments[argument[1]] = _json_value(argument[2].strip())
    inside = ", ".join(f"{json.dumps(name, ensure_ascii=False)}: {value}" for name, value in arguments.items())
    return f"{{{inside}}}"


def _split(text: str) -> list[str]:
    """The parts between commas that are in no bracket and in no string."""
    parts, nesting = [""], _Nesting()
    for char in text:
        nesting.take(char)
        if char == "," and not nesting.depth and not nesting.quote:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _json_value(text: str) -> str:
    """A literal of JSON as it is, one of Python as JSON."""
    try:
        json.loads(text, parse_constant=_no_json)
    except ValueError:
        written = json.dumps(ast.literal_eval(text), ensure_ascii=False, allow_nan=False)
        written.encode()  # half a surrogate pair cannot be sent
        return written
    return text


def _no_json(text: str) -> NoReturn:
    raise ValueError(text)
