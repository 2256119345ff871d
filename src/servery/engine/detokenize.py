"""Token ids to text as they arrive, and stop strings in that text.

Both are exact: the pieces that `Detokenizer` gives add up to the text of all ids at once, and `StopMatcher` finds what
a search of the whole text would find, wherever tokens begin and end. Both cost O(1) per character.
"""

import codecs
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from servery.engine.tokenizer import Tokenizer

_UTF8 = codecs.getincrementaldecoder("utf-8")
_TAIL_TOKENS = 4  # of a prompt: enough to hold the at most 3 bytes of a character that it leaves unfinished


class Detokenizer:
    """The text of one completion, token by token.

    A character whose bytes are spread over tokens comes out with the last of them; U+FFFD comes out only for bytes
    that no later token can complete. With `prompt`, the text continues the prompt's: a first token keeps the space
    that it would lose at the start of a text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int] = (),
        skip_special_tokens: bool = True,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        """`shown` are special tokens that are not skipped."""
        self._tokenizer = tokenizer
        self._hidden = tokenizer.special_ids - shown if skip_special_tokens else frozenset()
        self._utf8 = _UTF8(errors="replace")
        self._is_first_token = True
        self._is_first_text = True
        for token_id in _visible_tail(tokenizer, prompt, skip_special_tokens):
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """The text that became certain with this token, often all of its own; "" if it completes nothing."""
        piece = None if token_id in self._hidden else self._tokenizer.piece(token_id)
        if piece is None:
            return ""
        if self._is_first_token:
            piece = self._tokenizer.first_token_bytes(token_id)
            self._is_first_token = False
        text = self._utf8.decode(piece)
        return self._without_first_space(text) if self._is_first_text else text

    def finish(self) -> str:
        """The rest: U+FFFD if the last character was never completed, else ""."""
        return self._without_first_space(self._utf8.decode(b"", final=True))

    def _without_first_space(self, text: str) -> str:
        if text and self._is_first_text:
            self._is_first_text = False
            if self._tokenizer.strips_first_space:
                return text.removeprefix(" ")
        return text


def _visible_tail(tokenizer: Tokenizer, prompt: Sequence[int], skip_special_tokens: bool) -> list[int]:
    """The last visible tokens of a prompt, found from its end."""
    tail: list[int] = []
    for token_id in reversed(prompt):
        tail += tokenizer.visible([token_id], skip_special_tokens)
        if len(tail) == _TAIL_TOKENS:
            break
    return tail[::-1]


class Released(NamedTuple):
    """What may be sent on: `text`, and how many more `tokens` (in the order pushed) begin within what was sent.

    `stop` is the stop string that ended the text, which is part of it only if it is to be shown.
    """

    text: str
    tokens: int
    stop: str | None = None


class StopMatcher:
    """Cuts a stream of text before the first stop string in it.

    The first is the one completed earliest; of two completed by the same character, the longer. Text is held back only
    while it is the beginning of a possible match. Each stop string is followed by its own automaton (Knuth, Morris,
    Pratt, 1977), so that the cost per character does not depend on their lengths.
    """

    def __init__(self, stops: Sequence[str] = (), *, is_shown: bool = False) -> None:
        """If the stop string `is_shown`, the text is cut behind it."""
        self._is_shown = is_shown
        self._automata = [_Automaton(stop) for stop in stops]
        self._beginnings = frozenset(stop[0] for stop in stops)
        self._held = ""
        self._sent = 0  # characters released so far
        self._starts: deque[tuple[int, bool]] = deque()  # of tokens not yet released: offset, whether it has text
        self.stop: str | None = None

    def push(self, text: str, tokens: int = 1) -> Released:
        """Take the next `text`, that of `tokens` more tokens (0 for what `Detokenizer.finish` gave)."""
        if self.stop is not None:
            return Released("", 0, self.stop)
        if not self._held and self._beginnings.isdisjoint(text):  # the common case: no match has begun
            self._sent += len(text)
            return Released(text, tokens)
        self._starts.extend([(self._sent + len(self._held), bool(text))] * tokens)
        self._held += text
        for position in range(len(self._held) - len(text), len(self._held)):
            char = self._held[position]
            matched = [automaton.text for automaton in self._automata if automaton.is_completed_by(char)]
            if matched:
                self.stop = max(matched, key=len)
                return self._release(position + 1 - len(self.stop) * (not self._is_shown), self.stop)
        possible = max((automaton.matched for automaton in self._automata), default=0)
        return self._release(len(self._held) - possible, None)

    def skip(self, text: str) -> Released:
        """Take the next `text`, that of one token, before anything was pushed: no stop string is looked for in it."""
        self._sent += len(text)
        return Released(text, 1)

    def finish(self) -> Released:
        """Release what is still held; nothing after a stop."""
        if self.stop is not None:
            return Released("", 0, self.stop)
        return self._release(len(self._held), None)

    def _release(self, length: int, stop: str | None) -> Released:
        text, self._held = self._held[:length], self._held[length:]
        self._sent += length
        tokens = 0
        while self._starts and self._starts[0][0] + self._starts[0][1] <= self._sent:
            self._starts.popleft()
            tokens += 1
        return Released(text, tokens, stop)


class _Automaton:
    """How much of one stop string the text read so far ends with."""

    __slots__ = ("_fallback", "matched", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        self._fallback = _borders(text)

    def is_completed_by(self, char: str) -> bool:
        """Read one character; whether the text now ends with the stop string. Not to be called after that."""
        while self.matched and self.text[self.matched] != char:
            self.matched = self._fallback[self.matched - 1]
        self.matched += self.text[self.matched] == char
        return self.matched == len(self.text)


def _borders(text: str) -> list[int]:
    """For each prefix of `text`, the length of the longest proper prefix that is also its suffix."""
    borders = [0] * len(text)
    for i in range(1, len(text)):
        length = borders[i - 1]
        while length and text[i] != text[length]:
            length = borders[length - 1]
        borders[i] = length + (text[i] == text[length])
    return borders
