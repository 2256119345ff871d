"""The one parser of what models write: reasoning, then content, then tool calls, streamed as it comes.

All differences between models are data (`format`). The pieces of a text are the same however it was cut into tokens,
but for where a piece of one kind ends and the next of the same kind begins.
"""

from enum import Enum, auto

from servery.engine.parsing.call_reader import CallReader
from servery.engine.parsing.format import Body, ReasoningFormat, ToolFormat
from servery.engine.parsing.marker import split_at_marker
from servery.engine.parsing.piece import CallStart, Content, Piece, Reasoning, joined


class _State(Enum):
    START = auto()  # nothing but space so far
    REASONING = auto()
    AFTER = auto()  # nothing but space since reasoning or calls
    CONTENT = auto()
    CALLS = auto()


class MessageParser:
    """Parses one message. Without formats everything is content, to the letter.

    White space around reasoning and before calls is dropped: it belongs to the format. `calls` counts those begun;
    `behind_reasoning` is what came in one piece with the end of the reasoning.
    """

    def __init__(
        self,
        reasoning: ReasoningFormat | None = None,
        tools: ToolFormat | None = None,
        *,
        names: frozenset[str] | None = None,
        begins_in_reasoning: bool = False,
    ) -> None:
        """`names` are the functions that may be called, None for any; the prompt may have begun the reasoning."""
        self._reasoning = reasoning
        self._tools = tools
        self._names = names
        self._state = _State.REASONING if begins_in_reasoning and reasoning else _State.START
        self._is_fresh = True  # no reasoning yet
        self._held = ""
        self._reader: CallReader | None = None
        self.calls = 0
        self.behind_reasoning = ""

    @property
    def is_reasoning(self) -> bool:
        """Whether the reasoning goes on."""
        return self._state is _State.REASONING

    def feed(self, text: str) -> list[Piece]:
        """What `text` adds."""
        if self._reasoning is None and self._tools is None:
            return [Content(text)] if text else []
        pieces: list[Piece] = []
        text, self._held = self._held + text, ""
        while text:
            text = self._step(text, pieces)
        return self._counted(pieces)

    def finish(self) -> list[Piece]:
        """The message is over: what was held back as the beginning of a marker was none."""
        pieces: list[Piece] = [] if self._reader is None else self._reader.finish()
        held, self._held = self._held, ""
        if self._state is _State.REASONING:
            pieces.append(Reasoning(held.rstrip()))
        else:
            pieces.append(Content(held.strip() if self._state is _State.AFTER else held))
        return self._counted(pieces)

    def _counted(self, pieces: list[Piece]) -> list[Piece]:
        pieces = joined(pieces)
        self.calls += sum(isinstance(piece, CallStart) for piece in pieces)
        return pieces

    def _step(self, text: str, pieces: list[Piece]) -> str:
        """Read some of `text` or hold it back; returns the rest."""
        match self._state:
            case _State.START | _State.AFTER:
                return self._start(text)
            case _State.REASONING:
                return self._reason(text, pieces)
            case _State.CONTENT:
                return self._content(text, pieces)
            case _State.CALLS:
                return self._calls(text, pieces)

    def _start(self, text: str) -> str:
        """The first thing that is not space decides what the message begins with."""
        stripped = text.lstrip()
        leads = self._leads
        if not stripped or any(lead.startswith(stripped) and lead != stripped for lead in leads):
            self._held = text
            return ""
        for lead, state in leads.items():
            if stripped.startswith(lead):
                self._state = state
                if state is _State.CALLS:
                    return self._begin_calls(lead, stripped)
                return stripped[len(lead) :]
        is_after = self._state is _State.AFTER
        self._state = _State.CONTENT
        return stripped if is_after else text

    @property
    def _leads(self) -> dict[str, _State]:
        """What a message can begin with other than content, longest first."""
        leads: dict[str, _State] = {}
        if self._reasoning is not None and self._state is _State.START:
            leads[self._reasoning.begin] = _State.REASONING
        if self._tools is not None and not self._tools.begin:
            for lead in (self._tools.lead, "[" if self._tools.body is Body.PYTHON else "{"):
                if lead:
                    leads[lead] = _State.CALLS
        return leads

    def _begin_calls(self, lead: str, text: str) -> str:
        """A message that consists of calls: the lead is theirs if it is a marker, else it is their first character."""
        assert self._tools is not None
        is_marker = lead == self._tools.lead
        return self._open(lead if is_marker else "", text[len(lead) :] if is_marker else text)

    def _open(self, begun_with: str, text: str) -> str:
        assert self._tools is not None
        self._state = _State.CALLS
        self._reader = CallReader(self._tools, self._names, begun_with)
        return text

    def _reason(self, text: str, pieces: list[Piece]) -> str:
        assert self._reasoning is not None
        if self._is_fresh:
            text = text.lstrip()
        self._is_fresh = self._is_fresh and not text
        before, marker, after = split_at_marker(text, (self._reasoning.end,))
        shown = before.rstrip()  # space at its end may be the last
        pieces.append(Reasoning(shown))
        if marker is not None:
            self._state = _State.AFTER
            self.behind_reasoning = after
            return after
        self._held = before[len(shown) :] + after
        return ""

    def _content(self, text: str, pieces: list[Piece]) -> str:
        if self._tools is None or not self._tools.begin:
            pieces.append(Content(text))
            return ""
        before, marker, after = split_at_marker(text, (self._tools.begin,))
        shown = before.rstrip()  # space at its end may be followed by calls
        if marker is not None:
            pieces.append(Content(shown))
            return self._open(before[len(shown) :] + marker, after)
        pieces.append(Content(shown))
        self._held = before[len(shown) :] + after
        return ""

    def _calls(self, text: str, pieces: list[Piece]) -> str:
        assert self._reader is not None
        more, rest = self._reader.feed(text)
        pieces += more
        if self._reader.is_over:
            self._state = _State.AFTER if self._reader.has_read_calls else _State.CONTENT
            self._reader = None
        return rest
