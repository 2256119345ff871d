"""An answer of OpenAI's chat completions, whole or chunk by chunk, as messages grow."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import msgspec

from servery.upstream.openai.errors import event_error
from servery.upstream.refusal import cut, malformed
from servery.wire.message import Call, CallDelta, Message, MessageDelta, TokenLogprob, TopLogprob
from servery.wire.sse import EventCutter, EventTooLong, data_of
from servery.wire.usage import Usage

DONE = b"[DONE]"
# Old servers of Hugging Face say "eos_token" and "stop_sequence".
_FINISH_REASONS = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls",
                   "content_filter": "content_filter"}  # fmt: skip


class _Cached(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Reasoned(msgspec.Struct, frozen=True):
    reasoning_tokens: int | None = None


class OpenAIUsage(msgspec.Struct, frozen=True):
    """Tokens as chat completions, completions and embeddings count them, with whatever details a server gives."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Cached | None = None
    completion_tokens_details: _Reasoned | None = None

    def usage(self) -> Usage:
        """All of it, nothing where nothing is said."""
        cached, reasoned = self.prompt_tokens_details, self.completion_tokens_details
        return Usage.of(
            self.prompt_tokens or 0,
            self.completion_tokens or 0,
            (cached and cached.cached_tokens) or 0,
            (reasoned and reasoned.reasoning_tokens) or 0,
        )


class _Function(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct, frozen=True):
    index: int | None = None
    id: str | None = None
    function: _Function = _Function()


class _Said(msgspec.Struct, frozen=True):
    """A delta, or a whole message. `reasoning` is what newer servers call `reasoning_content`."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None

    @property
    def thought(self) -> str:
        """Reasoning, by either name."""
        return self.reasoning_content or self.reasoning or ""

    @property
    def is_refusal(self) -> bool:
        """Whether all that it says is that there will be no answer."""
        return bool(self.refusal) and not self.content and not self.tool_calls

    @property
    def text(self) -> str:
        """What it says, be it a refusal."""
        return self.content or self.refusal or ""


class _Top(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Logprob(_Top, frozen=True):
    top_logprobs: list[_Top] = []


class _Logprobs(msgspec.Struct, frozen=True):
    content: list[_Logprob] | None = None


class Choice(msgspec.Struct, frozen=True):
    """A choice of a chunk (`delta`), of an answer (`message`), or of the legacy API (`text`)."""

    index: int = 0
    delta: _Said = _Said()
    message: _Said = _Said()
    text: str | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: Any = None  # vLLM: the stop string, or the id of a token


def is_declined(choice: Choice) -> bool:
    """Whether a whole choice has no answer: a refusal, or nothing but the word of a filter."""
    said = choice.message
    has_words = bool(said.content or choice.text or said.tool_calls)
    return said.is_refusal or (choice.finish_reason == "content_filter" and not has_words)


class ChatChunk(msgspec.Struct, frozen=True):
    """A chunk of a stream, or a whole answer; or an error in the place of either."""

    choices: list[Choice] = []
    usage: OpenAIUsage | None = None
    error: Any = None

    def check(self, deployment: str) -> None:
        """Raise `ApiError` or `UpstreamFailure` for an error."""
        if self.error is not None:
            raise event_error(self.error, deployment)


CHUNK = msgspec.json.Decoder(ChatChunk)


@dataclass(slots=True)
class _Calls:
    """The calls of one choice: the server's number of the last one, and how many there were."""

    number: int | None = None
    position: int = -1
    ids: list[str] = field(default_factory=list)
    open_arguments: str = ""


class OpenAIStream:
    """Reads one streamed answer of `n` choices."""

    def __init__(self, deployment: str, n: int = 1) -> None:
        self._deployment = deployment
        self._n = n
        self._cutter = EventCutter()
        self._calls: defaultdict[int, _Calls] = defaultdict(_Calls)
        self._finished: set[int] = set()
        self._is_done = False
        self.usage = Usage.of(0, 0, 0)

    def feed(self, data: bytes) -> list[MessageDelta]:
        """What `data` adds; raises `ApiError` and `UpstreamFailure` for an error event and for what is no event."""
        try:
            found = [text for lines in self._cutter.feed(data) if (text := data_of(lines))]
            self._is_done = self._is_done or DONE in found
            chunks = [CHUNK.decode(text) for text in found if text != DONE]
        except (msgspec.DecodeError, EventTooLong) as error:
            raise malformed(self._deployment, f"an event that cannot be read: {error}") from error
        return [delta for chunk in chunks for delta in self._read(chunk)]

    def end(self) -> list[MessageDelta]:
        """What comes when there are no more bytes; raises `UpstreamFailure` if there should be."""
        if not self._is_done and len(self._finished) < self._n:
            raise cut(self._deployment)
        return []

    def _read(self, chunk: ChatChunk) -> list[MessageDelta]:
        chunk.check(self._deployment)
        if chunk.usage is not None:
            self.usage = chunk.usage.usage()
        deltas = [delta for choice in chunk.choices for delta in self._grown(choice)]
        return [delta for delta in deltas if not delta.is_empty]

    def _grown(self, choice: Choice) -> list[MessageDelta]:
        if choice.index in self._finished:
            return []
        said, calls = choice.delta, self._calls[choice.index]
        pieces = tuple(piece for call in said.tool_calls or () for piece in _pieces(call, calls))
        deltas = [
            MessageDelta(
                index=choice.index,
                reasoning=said.thought,
                content=said.text,
                calls=pieces,
                logprobs=_logprobs(choice.logprobs),
                is_refusal=said.is_refusal,
            )
        ]
        if choice.finish_reason is not None:
            self._finished.add(choice.index)
            if last := _closed(calls):
                deltas.append(MessageDelta(index=choice.index, calls=last))
            deltas.append(_end(choice, has_calls=bool(calls.ids)))
        return deltas


def read_answer(body: bytes, deployment: str) -> tuple[list[Message], Usage]:
    """An answer that was not streamed; raises `UpstreamFailure` for what is none."""
    try:
        chunk = CHUNK.decode(body)
    except msgspec.DecodeError as error:
        raise malformed(deployment, f"an answer that cannot be read: {error}") from error
    chunk.check(deployment)
    if not chunk.choices:
        raise malformed(deployment, "an answer without choices")
    usage = Usage.of(0, 0, 0) if chunk.usage is None else chunk.usage.usage()
    return [_message(choice) for choice in sorted(chunk.choices, key=lambda each: each.index)], usage


def _message(choice: Choice) -> Message:
    said = choice.message
    calls = [
        Call(id=call.id or f"call_{at}", name=call.function.name or "", arguments=call.function.arguments or "{}")
        for at, call in enumerate(said.tool_calls or ())
    ]
    end = _end(choice, has_calls=bool(calls))
    return Message(
        index=choice.index,
        reasoning=said.thought,
        content=said.text,
        calls=calls,
        logprobs=_logprobs(choice.logprobs),
        finish_reason=end.finish_reason or "stop",
        stop=end.stop,
        is_refusal=said.is_refusal,
    )


def _pieces(call: _Call, calls: _Calls) -> list[CallDelta]:
    """A piece of a call, after the rest of the one before if it begins another.

    Servers that send calls whole leave the number out, or give all of them the same: a new id with a name is a new call.
    """
    name, arguments = call.function.name, call.function.arguments or ""
    is_new = calls.position < 0 or (call.index is not None and call.index != calls.number)
    if not is_new and call.id and name:
        is_new = call.id != calls.ids[-1]
    if not is_new:
        calls.open_arguments += arguments
        return [CallDelta(position=calls.position, arguments=arguments)] if arguments else []
    before = list(_closed(calls))
    calls.number, calls.position, calls.open_arguments = call.index, calls.position + 1, arguments
    calls.ids.append(call.id or f"call_{calls.position}")
    return [*before, CallDelta(position=calls.position, id=calls.ids[-1], name=name or "", arguments=arguments)]


def _closed(calls: _Calls) -> tuple[CallDelta, ...]:
    """What completes the open call: clients parse its arguments, and nothing is no JSON."""
    if calls.position < 0 or calls.open_arguments:
        return ()
    calls.open_arguments = "{}"
    return (CallDelta(position=calls.position, arguments="{}"),)


def _end(choice: Choice, *, has_calls: bool) -> MessageDelta:
    reason = _FINISH_REASONS.get(choice.finish_reason or "", "stop")
    if has_calls and reason == "stop":
        reason = "tool_calls"
    stop = choice.stop_reason if isinstance(choice.stop_reason, str) and reason == "stop" else None
    return MessageDelta(index=choice.index, finish_reason=reason, stop=stop)


def _logprobs(given: _Logprobs | None) -> list[TokenLogprob] | None:
    if given is None or given.content is None:
        return None
    return [
        TokenLogprob(
            each.token,
            each.logprob,
            each.bytes or [],
            [TopLogprob(top.token, top.logprob, top.bytes or []) for top in each.top_logprobs],
        )
        for each in given.content
    ]
