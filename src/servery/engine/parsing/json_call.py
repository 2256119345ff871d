"""A tool call written as a JSON object, read character by character: `{"name": "f", "arguments": {...}}`."""

import json
from collections.abc import Sequence
from enum import Enum, auto

from servery.engine.parsing.piece import Arguments, CallStart, Content, Piece

_SPACE = " \t\r\n"
_OPEN, _CLOSE = "{[", "}]"


class MalformedCall(Exception):
    """The text is no call, which showed at the beginning of `rest`; `pieces` are of what was read before that."""

    def __init__(self, pieces: list[Piece], rest: str) -> None:
        super().__init__(rest)
        self.pieces = pieces
        self.rest = rest


class JsonValue:
    """Reads one JSON value and says where it ends; what is inside strings and brackets is not looked at closer."""

    def __init__(self) -> None:
        self.text = ""
        self.is_complete = False
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def take(self, char: str) -> bool:
        """Read one character; False if it no longer belongs to the value, which is then complete."""
        if self._in_string:
            self._take_in_string(char)
        elif char == '"' and (self._depth or not self.text):
            self._in_string = True
        elif char in _OPEN and (self._depth or not self.text):
            self._depth += 1
        elif char in _CLOSE and self._depth:
            self._depth -= 1
            self.is_complete = self._depth == 0
        elif not self._depth and char in f",{_CLOSE}{_SPACE}":
            self.is_complete = True  # a number or a literal ends where something else begins
            return False
        self.text += char
        return True

    def _take_in_string(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._in_string = False
            self.is_complete = self._depth == 0


class _Expects(Enum):
    OBJECT = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()
    COMMA = auto()
    NOTHING = auto()


class JsonCall:
    """One call; keys other than those of the name and of the arguments are ignored.

    Arguments that are a JSON string holding an object, as some models write them, are taken out of the string. Any other
    value is passed on as it is written, if the function has been named by then: clients have been told of the call.
    """

    def __init__(
        self, names: frozenset[str] | None, argument_keys: Sequence[str] = ("arguments", "parameters")
    ) -> None:
        """`names` are the functions that may be called, None for any."""
        self._names = names
        self._argument_keys = argument_keys
        self._expects = _Expects.OBJECT
        self._key = ""
        self._value = JsonValue()
        self._key_text = ""  # what was read of a key, to its colon
        self._is_named = False
        self._early_arguments = ""  # read before the name
        self._has_arguments = False

    @property
    def is_complete(self) -> bool:
        """Whether the object has been closed."""
        return self._expects is _Expects.NOTHING

    def feed(self, text: str) -> tuple[list[Piece], str]:
        """What `text` adds to the call, and what is left of it after the call's end; raises `MalformedCall`."""
        pieces: list[Piece] = []
        for at, char in enumerate(text):
            if self.is_complete:
                return pieces, text[at:]
            try:
                self._take(char, pieces)
            except ValueError:
                lost = [Content(self._key_text)] if self._is_named else []
                raise MalformedCall([*pieces, *lost], text[at:]) from None
            is_key = self._expects is _Expects.COLON or (self._expects is _Expects.KEY and self._value.text != "")
            self._key_text = self._key_text + char if is_key else ""
        return pieces, ""

    def finish(self) -> list[Piece]:
        """What was held back of the arguments, where the message breaks off."""
        is_begun = self._expects is _Expects.VALUE and self._value.text != ""
        if not is_begun or not self._is_named or self._key not in self._argument_keys or self._streams:
            return []
        return [Arguments(_arguments_text(self._value.text))]

    def _take(self, char: str, pieces: list[Piece]) -> None:
        if self._expects is _Expects.KEY or self._expects is _Expects.VALUE:
            if self._value.text or char not in _SPACE:
                self._take_value(char, pieces)
        elif char not in _SPACE:
            self._expects = self._after(char)
            if self.is_complete and not self._has_arguments:
                pieces.append(Arguments("{}"))

    def _after(self, char: str) -> _Expects:
        """What follows a structural character; raises `ValueError` if it is out of place."""
        self._value = JsonValue()
        if (self._expects, char) == (_Expects.OBJECT, "{"):
            return _Expects.KEY
        if (self._expects, char) == (_Expects.COLON, ":"):
            return _Expects.VALUE
        if (self._expects, char) == (_Expects.COMMA, ","):
            return _Expects.KEY
        if (self._expects, char) == (_Expects.COMMA, "}") and self._is_named:
            return _Expects.NOTHING
        raise ValueError

    def _take_value(self, char: str, pieces: list[Piece]) -> None:
        is_key = self._expects is _Expects.KEY
        if is_key and not self._value.text and char != '"':
            raise ValueError
        belongs = self._value.take(char)
        if belongs and not is_key and self._streams:
            pieces.append(Arguments(char))
        if self._value.is_complete:
            self._expects = _Expects.COLON if is_key else _Expects.COMMA
            if is_key:
                self._begin_member(str(_decoded(self._value.text)))
            else:
                self._end_value(pieces)
        if not belongs:
            self._take(char, pieces)

    @property
    def _streams(self) -> bool:
        """Whether the value being read is an object or a list, and the arguments of a call whose name is known."""
        return self._is_named and self._key in self._argument_keys and self._value.text[0] in _OPEN

    def _begin_member(self, key: str) -> None:
        """Raises `ValueError` for a second name, and for second arguments: the first may have been sent."""
        if (key == "name" and self._is_named) or (key in self._argument_keys and self._has_arguments):
            raise ValueError
        self._key = key

    def _end_value(self, pieces: list[Piece]) -> None:
        text = self._value.text
        if self._key == "name":
            self._name(_decoded(text), pieces)
        elif self._key in self._argument_keys:
            if self._is_named and not self._streams:
                text = _arguments_text(text)
                pieces.append(Arguments(text))
            elif not self._is_named:
                text = self._early_arguments = _object_text(text)
            self._has_arguments = text != ""

    def _name(self, name: object, pieces: list[Piece]) -> None:
        if not isinstance(name, str) or (self._names is not None and name not in self._names):
            raise ValueError
        self._is_named = True
        pieces += [CallStart(name), Arguments(self._early_arguments)]


class NamedCall:
    """One call written as `NAME`, a separator or nothing, and a JSON object."""

    def __init__(self, names: frozenset[str] | None, separator: str) -> None:
        """`names` are the functions that may be called, None for any."""
        self._names = names
        self._separator = separator
        self._head = ""  # the name, and as much of the separator as has come
        self._arguments: JsonValue | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the object has been closed."""
        return self._arguments is not None and self._arguments.is_complete

    def feed(self, text: str) -> tuple[list[Piece], str]:
        """As `JsonCall.feed`."""
        pieces: list[Piece] = []
        for at, char in enumerate(text):
            if self.is_complete:
                return pieces, text[at:]
            if self._arguments is not None:
                self._arguments.take(char)
                pieces.append(Arguments(char))
            elif char == "{":
                name = self._head.strip().removesuffix(self._separator).strip()
                if not name or (self._names is not None and name not in self._names):
                    raise MalformedCall(pieces, text[at:])
                self._arguments = JsonValue()
                self._arguments.take(char)
                pieces += [CallStart(name), Arguments(char)]
            else:
                self._head += char
        return pieces, ""

    def finish(self) -> list[Piece]:
        """As `JsonCall.finish`; nothing is held back."""
        return []


def _arguments_text(text: str) -> str:
    """The arguments' object, or what is there in its place; empty for null."""
    try:
        return _object_text(text)
    except ValueError:
        return text


def _object_text(text: str) -> str:
    """The arguments' object, in a string or not; empty for null. Raises `ValueError` if there is none."""
    value = _decoded(text)
    if isinstance(value, str):
        text, value = value, _decoded(value or "null")
        text.encode()  # half a surrogate pair, which could not be sent, is fine inside of the string only
    if value is None:
        return ""
    if not isinstance(value, dict):
        raise ValueError
    return text


def _decoded(text: str) -> object:
    """What JSON says, integers as floats, which may be of any length; raises `ValueError`, for too deep nesting as well."""
    try:
        return json.loads(text, parse_int=float)
    except RecursionError:
        raise ValueError from None
