"""What is new in an answer that is written once more, for a client that has its beginning. Pure.

The deltas of both may be cut in different places; what they say together must be the same, as far as the client has it.
"""

from collections.abc import Iterable

from servery.wire.message import CallDelta, Message, MessageDelta, TokenLogprob


class Diverged(Exception):
    """The second answer is another one."""


class Said:
    """What a client has of an answer, completion by completion."""

    def __init__(self, deltas: Iterable[MessageDelta] = ()) -> None:
        self.messages: dict[int, Message] = {}
        self.finished: set[int] = set()
        for delta in deltas:
            self.add(delta)

    def add(self, delta: MessageDelta) -> None:
        """The client has been told this, too."""
        message = self.messages.setdefault(delta.index, Message(index=delta.index, calls=[]))
        message.add(delta)
        if delta.finish_reason is not None:
            self.finished.add(delta.index)

    @property
    def text(self) -> str | None:
        """The content of the only completion, as far as it is; None if more was said than content, or it has ended."""
        if set(self.messages) != {0} or self.finished:
            return None
        (message,) = self.messages.values()
        return None if message.reasoning or message.calls or message.logprobs else message.content


class Continuation:
    """Takes the second answer's deltas and gives what the client does not have. Raises `Diverged`."""

    def __init__(self, said: Said) -> None:
        self._completions = {
            index: _Completion(message, is_finished=index in said.finished) for index, message in said.messages.items()
        }

    def rest(self, delta: MessageDelta) -> MessageDelta | None:
        """What of the delta is new; None if nothing is."""
        if delta.index not in self._completions:
            return delta
        return self._completions[delta.index].rest(delta)


class _Completion:
    """One completion's: what the client has of it, and how much of that has been seen again."""

    def __init__(self, known: Message, *, is_finished: bool) -> None:
        self._known = known
        self._is_finished = is_finished
        self._reasoning = self._content = self._logprobs = 0
        self._arguments = [0] * len(known.calls)
        self._named = [False] * len(known.calls)

    def rest(self, delta: MessageDelta) -> MessageDelta | None:
        known = self._known
        reasoning, self._reasoning = _past(known.reasoning, self._reasoning, delta.reasoning)
        content, self._content = _past(known.content, self._content, delta.content)
        calls = tuple(new for call in delta.calls if (new := self._call(call)) is not None)
        logprobs = self._fresh(delta.logprobs)
        if self._is_finished:
            if reasoning or content or calls:
                raise Diverged
            return None
        if (reasoning or content or calls or delta.finish_reason is not None) and not self._is_caught_up:
            raise Diverged  # it goes on without having said all that the client has
        rest = MessageDelta(
            index=delta.index,
            reasoning=reasoning,
            content=content,
            calls=calls,
            logprobs=logprobs or None,
            finish_reason=delta.finish_reason,
            stop=delta.stop,
        )
        return None if rest.is_empty else rest

    @property
    def _is_caught_up(self) -> bool:
        known = self._known
        has_text = self._reasoning >= len(known.reasoning) and self._content >= len(known.content)
        has_calls = all(seen >= len(call.arguments) for seen, call in zip(self._arguments, known.calls, strict=True))
        return has_text and has_calls and all(self._named)

    def _call(self, call: CallDelta) -> CallDelta | None:
        """What of a call's piece is new; one that the client knows keeps the id that it was told."""
        if call.position >= len(self._known.calls):
            return call
        known, at = self._known.calls[call.position], call.position
        if call.name is not None:
            if call.name != known.name:
                raise Diverged
            self._named[at] = True
        arguments, self._arguments[at] = _past(known.arguments, self._arguments[at], call.arguments)
        return CallDelta(position=at, arguments=arguments) if arguments else None

    def _fresh(self, logprobs: list[TokenLogprob] | None) -> list[TokenLogprob]:
        known, new, seen = self._known.logprobs or [], logprobs or [], self._logprobs
        again = known[seen : seen + len(new)]
        if any(one.token != other.token for one, other in zip(again, new, strict=False)):
            raise Diverged
        self._logprobs += len(new)
        return new[len(again) :]


def _past(known: str, seen: int, new: str) -> tuple[str, int]:
    """What of `new` goes beyond `known`, of which `seen` characters came before, and how many have now."""
    again = known[seen : seen + len(new)]
    if not new.startswith(again):
        raise Diverged
    return new[len(again) :], seen + len(again)
