"""Tool calls written as a Python list: `[get_weather(city="Paris"), add(a=1, b=2)]`."""

import ast
import json

from servery.engine.parsing.json_call import MalformedCall
from servery.engine.parsing.piece import Arguments, CallStart, Piece

_OPEN, _CLOSE = "([{", ")]}"


class PythonCalls:
    """A list of calls; each comes out when its closing parenthesis has been read."""

    def __init__(self, names: frozenset[str] | None) -> None:
        """`names` are the functions that may be called, None for any."""
        self._names = names
        self._call = ""  # the text of the call being read
        self._depth = 0
        self._quote = ""
        self._is_escaped = False
        self.is_complete = False

    def feed(self, text: str) -> tuple[list[Piece], str]:
        """What `text` adds, and what is left of it after the list's end; raises `MalformedCall`."""
        pieces: list[Piece] = []
        for at, char in enumerate(text):
            if self.is_complete:
                return pieces, text[at:]
            try:
                self._take(char, pieces)
            except (SyntaxError, TypeError, ValueError, RecursionError):
                raise MalformedCall(pieces, text[at:]) from None
        return pieces, ""

    def _take(self, char: str, pieces: list[Piece]) -> None:
        if self._quote:
            self._take_in_string(char)
        elif char in "\"'":
            self._quote = char
        elif char in _OPEN:
            self._depth += 1
        elif char in _CLOSE:
            self._depth -= 1
        if self._depth < 1 or (self._depth == 1 and char == "," and not self._quote):
            self._end_call(pieces)
            self.is_complete = self._depth < 1
        elif not (self._depth == 1 and char == "[" and not self._call):
            self._call += char

    def _take_in_string(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == self._quote:
            self._quote = ""

    def _end_call(self, pieces: list[Piece]) -> None:
        text, self._call = self._call.strip(), ""
        node = ast.parse(text, mode="eval").body
        if not isinstance(node, ast.Call) or node.args:
            raise ValueError
        name = ast.unparse(node.func)
        if self._names is not None and name not in self._names:
            raise ValueError
        arguments = {_keyword(each): ast.literal_eval(each.value) for each in node.keywords}
        pieces += [CallStart(name), Arguments(json.dumps(arguments, ensure_ascii=False, allow_nan=False))]


def _keyword(keyword: ast.keyword) -> str:
    if keyword.arg is None:  # **arguments
        raise ValueError
    return keyword.arg
