"""A message that a model writes, whole and as it grows: what all APIs have to tell, before one of them says it its way."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from servery.wire.usage import Usage


class TopLogprob(msgspec.Struct, frozen=True):
    """One of the most likely tokens; `bytes` are its UTF-8 bytes, which may be a part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct, frozen=True):
    """The token that was chosen and the most likely ones at its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class CallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A further piece of the tool call at `position` of its message; `id` and `name` come once, with its first piece.

    `arguments` are pieces of JSON text.
    """

    position: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class MessageDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What is new of completion `index`, in the order reasoning, content, calls.

    `logprobs` are of the tokens that `content` was made of, None unless they were asked for. `finish_reason` comes with
    the last delta: "stop", "length", "tool_calls", "content_filter"; `stop` is then the stop string that was found, if
    one was. `is_refusal`: `content` says that there will be no answer.
    """

    index: int = 0
    reasoning: str = ""
    content: str = ""
    calls: tuple[CallDelta, ...] = ()
    logprobs: list[TokenLogprob] | None = None
    finish_reason: str | None = None
    stop: str | None = None
    is_refusal: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that a client could be told."""
        return not (self.reasoning or self.content or self.calls or self.logprobs or self.finish_reason)


class Call(msgspec.Struct, kw_only=True):
    """A tool call; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str = ""


class Message(msgspec.Struct, kw_only=True):
    """The sum of a completion's deltas."""

    index: int
    reasoning: str = ""
    content: str = ""
    calls: list[Call] = []
    logprobs: list[TokenLogprob] | None = None
    finish_reason: str = "stop"
    stop: str | None = None
    is_refusal: bool = False

    def add(self, delta: MessageDelta) -> None:
        """Take in the next delta of this completion."""
        self.reasoning += delta.reasoning
        self.content += delta.content
        for call in delta.calls:
            if call.position == len(self.calls):
                self.calls.append(Call(id=call.id or "", name=call.name or ""))
            self.calls[call.position].arguments += call.arguments
        if delta.logprobs is not None:
            self.logprobs = [*(self.logprobs or ()), *delta.logprobs]
        if delta.finish_reason is not None:
            self.finish_reason, self.stop = delta.finish_reason, delta.stop


class AnswerForm(Protocol):
    """How a client reads the answer to a chat: `start`, `delta` and `end` for a stream, `body` for a whole one.

    One instance per answer: it may keep what its API numbers or repeats. All give bytes; of a stream, whole events.
    """

    def tell(self, defaults: Mapping[str, float]) -> None:
        """How the model is sampled from where the client does not say, before anything is written, by who knows it."""

    def start(self, usage: Usage) -> bytes:
        """What comes before the first delta; of `usage` only the prompt's part is known."""

    def delta(self, delta: MessageDelta) -> bytes:
        """What says that a message has grown, or ended."""

    def end(self, usage: Usage) -> bytes:
        """What comes when every message has ended."""

    def body(self, messages: Sequence[Message], usage: Usage) -> bytes:
        """The answer that is not streamed."""
