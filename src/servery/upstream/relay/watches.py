"""What the events of each API tell of an answer: searched for in the bytes, decoded only where something was found."""

from dataclasses import dataclass
from typing import Any

import msgspec

from servery.upstream.anthropic.answer import EVENT, AnthropicUsage
from servery.upstream.anthropic.answer import finish_reason as anthropic_finish_reason
from servery.upstream.anthropic.errors import event_error as anthropic_error
from servery.upstream.openai.answer import CHUNK, DONE, Choice
from servery.upstream.openai.errors import event_error as openai_error
from servery.upstream.upstream import Chunk
from servery.wire.sse import data_of
from servery.wire.usage import Usage

_BLANK = b"\n\n"
# What a client that did not ask for usage is not told: that there is none yet.
NO_USAGE = (b',"usage":null', b', "usage": null')


class ChatWatch:
    """Of chat completions and legacy completions, `n` in one answer.

    With `hides_usage` the client did not ask for usage, so it is not told.
    """

    def __init__(self, deployment: str, n: int, *, hides_usage: bool) -> None:
        self._deployment = deployment
        self._n = n
        self._hides_usage = hides_usage
        self._finished: set[int] = set()
        self._is_begun = False
        self._is_done = False

    @property
    def is_complete(self) -> bool:
        """Whether [DONE] came, or the end of every completion."""
        return self._is_done or len(self._finished) >= self._n

    def plain(self, lines: bytes) -> int | None:
        """One token, unless the event begins or ends something, counts or complains."""
        is_telling = (
            b'"error"' in lines
            or b'"role":' in lines
            or b'"finish_reason":"' in lines
            or b'"usage":{' in lines
            or b'"finish_reason": "' in lines
            or b'"usage": {' in lines
        )
        is_looked_at = is_telling or self._n > 1 or not self._is_begun  # what it begins with may be a refusal
        return None if is_looked_at or not _is_object(lines) else 1

    def see(self, lines: bytes) -> Chunk:
        """The event, as it goes on to the client."""
        data = data_of(lines)
        if data == DONE:
            self._is_done = True
        if data == DONE or not data:
            return Chunk()
        chunk = CHUNK.decode(data)
        chunk.check(self._deployment)
        usage = None if chunk.usage is None else chunk.usage.usage()
        if not chunk.choices:
            is_hidden = self._hides_usage and usage is not None
            return Chunk(data=b"" if is_hidden else lines + _BLANK, usage=usage)
        choice, tokens, is_refusal = chunk.choices[0], 0, True
        for each in chunk.choices:
            tokens += _says_something(each)
            is_refusal = is_refusal and each.delta.is_refusal
            if each.finish_reason is not None:
                self._finished.add(each.index)
        self._is_begun = self._is_begun or tokens > 0
        return Chunk(
            data=lines + _BLANK,
            index=choice.index,
            tokens=tokens,
            finish_reason=choice.finish_reason,
            usage=usage,
            is_refusal=is_refusal,
        )


def _is_object(lines: bytes) -> bool:
    """Whether the event has one line of data, and that looks like an object at both ends."""
    return lines.startswith(b"data: {") and lines.endswith(b"}") and b"\n" not in lines


def _says_something(choice: Choice) -> bool:
    return bool(choice.text or choice.delta.text or choice.delta.thought or choice.delta.tool_calls)


class MessagesWatch:
    """Of Anthropic's Messages API."""

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self._counted = AnthropicUsage()
        self.is_complete = False

    def plain(self, lines: bytes) -> int | None:
        """One token for a piece of a block, none for its beginning and its end."""
        name, _, data = lines.partition(b"\n")
        if not name.startswith((b"event: content_block_", b"event: ping")) or not _is_object(data):
            return None
        return int(name == b"event: content_block_delta")

    def see(self, lines: bytes) -> Chunk:
        """The event, as it goes on to the client."""
        data = data_of(lines)
        if not data:
            return Chunk()
        event = EVENT.decode(data)
        if event.type == "error":
            raise anthropic_error(event.error, self._deployment)
        self.is_complete = self.is_complete or event.type == "message_stop"
        counted = event.usage if event.message is None else event.message.usage
        reason = None if event.delta is None else event.delta.stop_reason
        if counted is None:
            return Chunk(data=lines + _BLANK)
        self._counted = counted.after(self._counted)
        told = None if reason is None else anthropic_finish_reason(reason)
        return Chunk(data=lines + _BLANK, finish_reason=told, usage=self._counted.usage())


class _Cached(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Reasoned(msgspec.Struct, frozen=True):
    reasoning_tokens: int | None = None


class ResponsesUsage(msgspec.Struct, frozen=True):
    """Tokens as the Responses API counts them."""

    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _Cached | None = None
    output_tokens_details: _Reasoned | None = None

    def usage(self) -> Usage:
        """As chat completions have it."""
        cached = self.input_tokens_details and self.input_tokens_details.cached_tokens
        reasoned = self.output_tokens_details and self.output_tokens_details.reasoning_tokens
        return Usage.of(self.input_tokens, self.output_tokens, cached or 0, reasoned or 0)


class _Part(msgspec.Struct, frozen=True):
    type: str = ""


class _Item(msgspec.Struct, frozen=True):
    type: str = ""
    content: list[_Part] | None = None


class _Details(msgspec.Struct, frozen=True):
    reason: str | None = None


class Response(msgspec.Struct, frozen=True):
    """What a finished response tells besides its items."""

    status: str = "completed"
    usage: ResponsesUsage | None = None
    incomplete_details: _Details | None = None
    error: Any = None
    output: list[_Item] = []

    @property
    def is_declined(self) -> bool:
        """Whether it has no answer: a refusal, or nothing but the word of a filter."""
        said = [part.type for item in self.output if item.type == "message" for part in item.content or ()]
        if any(item.type.endswith("_call") for item in self.output) or any(each != "refusal" for each in said):
            return False
        return bool(said) or self.finish_reason == "content_filter"

    @property
    def finish_reason(self) -> str:
        """Why it ended, in the words of chat completions."""
        if self.status != "incomplete":
            return "stop"
        reason = self.incomplete_details and self.incomplete_details.reason
        return "content_filter" if reason == "content_filter" else "length"


class _ResponsesEvent(msgspec.Struct, frozen=True):
    type: str
    response: Response | None = None


_EVENT = msgspec.json.Decoder(_ResponsesEvent)
_LAST = ("response.completed", "response.incomplete", "response.failed")


@dataclass(slots=True)
class ResponsesWatch:
    """Of OpenAI's Responses API."""

    deployment: str
    is_complete: bool = False

    def plain(self, lines: bytes) -> int | None:
        """One token for a piece of text, of reasoning or of arguments."""
        name, _, data = lines.partition(b"\n")
        is_piece = name.startswith(b"event: response.") and name.endswith(b".delta") and b"refusal" not in name
        return 1 if is_piece and _is_object(data) else None

    def see(self, lines: bytes) -> Chunk:
        """The event, as it goes on to the client."""
        data = data_of(lines)
        if not data or data == DONE:
            return Chunk()
        event = _EVENT.decode(data)
        if event.type == "error":
            raise openai_error(msgspec.json.decode(data), self.deployment)
        if event.type not in _LAST or event.response is None:
            is_refusal = event.type == "response.refusal.delta"
            return Chunk(data=lines + _BLANK, tokens=int(event.type.endswith(".delta")), is_refusal=is_refusal)
        response = event.response
        if event.type == "response.failed":
            raise openai_error(response.error or {}, self.deployment)
        self.is_complete = True
        usage = None if response.usage is None else response.usage.usage()
        return Chunk(data=lines + _BLANK, finish_reason=response.finish_reason, usage=usage)
