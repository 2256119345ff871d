"""Where an answer's reasoning begins and ends, token by token, and when it has to end."""

from enum import Enum, auto
from typing import NamedTuple

from servery.engine.constraint import Reasoning
from servery.engine.structure.vocabulary import Vocabulary

_BREAK = b"\n\n"  # at most, between reasoning and what follows it


class Phase(Enum):
    """How far the reasoning is."""

    UNDECIDED = auto()  # the model may begin to reason, or answer at once
    REASONING = auto()  # until it has written the end marker
    CLOSING = auto()  # the budget is used up: the end marker is written for it
    BREAK = auto()  # it has reasoned; line breaks may come
    OVER = auto()  # it answers


class Progress(NamedTuple):
    """A phase; the newest bytes, in which a marker may have begun; and how many tokens the phase has had."""

    phase: Phase
    tail: bytes = b""
    tokens: int = 0


OVER = Progress(Phase.OVER)


class ReasoningRule:
    """The markers and the budget, in one model's tokens. `Progress` goes on by `after`, which changes nothing.

    `is_free`: what follows the reasoning is not constrained, so nobody has to know where it begins.
    """

    def __init__(self, reasoning: Reasoning, vocabulary: Vocabulary, *, is_free: bool) -> None:
        self._begin, self._end = reasoning.begin.encode(), reasoning.end.encode()
        self._budget = reasoning.budget
        self._vocabulary = vocabulary
        self._is_free = is_free
        self._begin_id = vocabulary.tokenizer.token_id(reasoning.begin)
        self._end_ids = vocabulary.spelled(reasoning.end)

    @property
    def start(self) -> Progress:
        """Before the first token of the answer."""
        return Progress(Phase.UNDECIDED if self._begin else Phase.REASONING)

    def after(self, progress: Progress, token_id: int) -> Progress:
        """Where the answer is when `token_id` has been added to it."""
        match progress.phase:
            case Phase.UNDECIDED:
                return self._decided(progress, token_id)
            case Phase.REASONING if self.forced(progress):
                return self._closed(Progress(Phase.CLOSING))
            case Phase.REASONING:
                return self._reasoned(progress.tail, token_id, progress.tokens + 1)
            case Phase.CLOSING:
                return self._closed(progress)
            case Phase.BREAK:
                tail = progress.tail + self._vocabulary.token_bytes(token_id)
                return Progress(Phase.BREAK, tail) if _BREAK.startswith(tail) and tail != progress.tail else OVER
            case Phase.OVER:
                return OVER

    def forced(self, progress: Progress) -> list[int]:
        """The tokens that are written for the model now, one after another; none if it may choose."""
        if progress.phase is Phase.CLOSING:
            return self._end_ids[progress.tokens :]
        is_spent = self._budget is not None and progress.tokens >= self._budget
        return self._end_ids if is_spent and progress.phase is Phase.REASONING else []

    def besides(self, progress: Progress) -> list[int]:
        """The tokens that may come besides those with which the answer itself begins or, in its first phase, goes on."""
        if progress.phase is Phase.BREAK:
            return self._vocabulary.leading(_BREAK[len(progress.tail) :])
        if progress.phase is Phase.UNDECIDED:
            if self._begin_id is not None:
                return [self._begin_id]
            return self._vocabulary.leading(self._begin[len(progress.tail) :])
        return []

    def overshooting(self, progress: Progress) -> list[int]:
        """The tokens that would end the reasoning and begin the answer at once, with what nobody would look at."""
        for begun in range(min(len(progress.tail), len(self._end) - 1), 0, -1):
            if progress.tail.endswith(self._end[:begun]):
                return self._vocabulary.exceeding(self._end[begun:])
        return []

    def _decided(self, progress: Progress, token_id: int) -> Progress:
        if self._begin_id is not None and not self._is_free:
            return Progress(Phase.REASONING) if token_id == self._begin_id else OVER
        tail = progress.tail + self._vocabulary.token_bytes(token_id)
        text = tail.lstrip() if self._is_free else tail  # the parser looks over space, too
        if text.startswith(self._begin):
            return self._ended(text[len(self._begin) :], 0)
        return Progress(Phase.UNDECIDED, tail) if self._begin.startswith(text) else OVER

    def _reasoned(self, tail: bytes, token_id: int, tokens: int) -> Progress:
        return self._ended(tail + self._vocabulary.token_bytes(token_id), tokens)

    def _ended(self, tail: bytes, tokens: int) -> Progress:
        if self._end in tail:
            return Progress(Phase.BREAK)
        return Progress(Phase.REASONING, tail[-len(self._end) :], tokens)

    def _closed(self, progress: Progress) -> Progress:
        written = progress.tokens + 1
        return Progress(Phase.BREAK) if written == len(self._end_ids) else Progress(Phase.CLOSING, tokens=written)
