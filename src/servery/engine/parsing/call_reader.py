"""The tool calls of a message, from the beginning of the first to where something else begins."""

from servery.engine.parsing.format import Body, ToolFormat
from servery.engine.parsing.json_call import JsonCall, MalformedCall, NamedCall
from servery.engine.parsing.piece import CallStart, Content, Piece
from servery.engine.parsing.python_call import PythonCalls


class CallReader:
    """Reads calls as `tool_format` writes them. What turns out to be no call comes out as content, to the letter.

    A call whose function has been named stays a call, whatever follows: clients have been told of it.
    """

    def __init__(self, tool_format: ToolFormat, names: frozenset[str] | None, begun_with: str) -> None:
        """`names` are the functions that may be called, None for any; `begun_with` was read already to get here."""
        self._format = tool_format
        self._names = names
        self._call: JsonCall | NamedCall | PythonCalls | None = None
        self._is_named = False  # the call being read
        self._in_list = False
        self._unexplained = begun_with  # read since the last call, or since the beginning; content if no call follows
        self.has_read_calls = False
        self.is_over = False

    def feed(self, text: str) -> tuple[list[Piece], str]:
        """What `text` adds, and what is left of it once `is_over`."""
        pieces: list[Piece] = []
        while text and not self.is_over:
            if self._call is None:
                text = self._begin(text)
            elif not self._call.is_complete:
                text = self._read(self._call, text, pieces)
            else:
                text = self._follow(text)
        return pieces, text

    def finish(self) -> list[Piece]:
        """The message is over: what was the beginning of a call is content, unless its function has been named."""
        if self.is_over or (self._call is not None and self._call.is_complete):
            return []
        if self._call is not None and self._is_named:
            return self._call.finish()
        return [Content(self._unexplained)]

    def _begin(self, text: str) -> str:
        """Choose by the first character what reads the next call; returns the text from there."""
        stripped = text.lstrip()
        self._unexplained += text[: len(text) - len(stripped)]
        if not stripped:
            return ""
        if self._format.body is Body.OBJECTS and not self._in_list and stripped[0] == "[":
            self._in_list = True
            self._unexplained += "["
            return stripped[1:]
        if self._format.body is Body.PYTHON:
            self._call = PythonCalls(self._names)
        elif self._format.body is Body.OBJECTS and not self._in_list:
            self._call = NamedCall(self._names, self._format.separator)
        else:
            self._call = JsonCall(self._names)
        return stripped

    def _read(self, call: JsonCall | NamedCall | PythonCalls, text: str, pieces: list[Piece]) -> str:
        try:
            more, rest = call.feed(text)
        except MalformedCall as error:
            self._note(error.pieces, text[: len(text) - len(error.rest)])
            pieces += [*error.pieces, Content(self._unexplained)]
            self.is_over = True
            return error.rest
        self._note(more, text[: len(text) - len(rest)])
        pieces += more
        if call.is_complete:
            self._is_named, self._unexplained = False, ""
        return rest

    def _note(self, pieces: list[Piece], read: str) -> None:
        """Keep what was read for as long as it may be no call."""
        self._is_named = self._is_named or any(isinstance(piece, CallStart) for piece in pieces)
        self.has_read_calls = self.has_read_calls or self._is_named
        self._unexplained = "" if self._is_named else self._unexplained + read

    def _follow(self, text: str) -> str:
        """After a call: another, an end, or something else, which is left."""
        text = (self._unexplained + text).lstrip()
        self._unexplained = ""
        if self._in_list and text and text[0] in ",]":
            self._in_list = text[0] == ","
            self._call = None if self._in_list else self._call
            return text[1:]
        for marker in self._followers:
            if text.startswith(marker):
                self._call, self._unexplained = None, marker
                return text[len(marker) :]
        end = self._format.end
        if any(marker.startswith(text) for marker in (*self._followers, end)):
            self._unexplained = text  # too little to tell
            return ""
        self.is_over = True
        return text.removeprefix(end)

    @property
    def _followers(self) -> tuple[str, ...]:
        """What leads to another call."""
        return tuple(marker for marker in (self._format.between, self._format.begin) if marker)
