"""What a model writes, delta by delta, as the message that clients read."""

import secrets
import string
from collections.abc import Callable

from servery.engine.completion import TextDelta
from servery.engine.parsing.message_parser import MessageParser
from servery.engine.parsing.piece import Arguments, CallStart, Content, Piece
from servery.engine.request import FinishReason
from servery.engine.tokenizer import Tokenizer
from servery.upstream.logprobs import token_logprobs
from servery.wire.message import CallDelta, MessageDelta

TOOL_CALLS = "tool_calls"
_ID_CHARS = string.ascii_letters + string.digits
_SHORT_ID_LENGTH = 9


class MessageWriter:
    """One completion's message. After `is_over` nothing more of it is wanted: it has all the calls it may have.

    `reasoning_tokens` counts tokens generated while the reasoning went on, its end marker included.
    """

    def __init__(
        self,
        parser: MessageParser,
        tokenizer: Tokenizer | None,
        *,
        most_calls: int | None = None,
        short_ids: bool = False,
        id_prefix: str = "call_",
        token_bytes: Callable[[int], bytes] = lambda token_id: b"",
    ) -> None:
        """With a `tokenizer`, log probabilities are shown; `short_ids`: calls get ids of nine letters and digits,
        otherwise ids that begin with `id_prefix`.

        `token_bytes` tells the tokens of the reasoning from those that came in one step with its end.
        """
        self._token_bytes = token_bytes
        self._parser = parser
        self._tokenizer = tokenizer
        self._most_calls = most_calls
        self._short_ids = short_ids
        self._id_prefix = id_prefix
        self._calls = 0
        self.reasoning_tokens = 0
        self.is_over = False

    def write(self, delta: TextDelta) -> list[MessageDelta]:
        """What `delta` adds, in the order in which it was written; log probabilities go with the first of it."""
        if self.is_over:
            return []
        was_reasoning = self._parser.is_reasoning
        pieces = self._parser.feed(delta.text)
        if was_reasoning:
            self.reasoning_tokens += self._reasoned(delta)
        if delta.finish_reason is not None:
            pieces += self._parser.finish()
        written, self.is_over = self._deltas(delta.index, pieces)
        if self._tokenizer is not None and delta.logprobs:
            first = written.pop(0) if written else MessageDelta(index=delta.index)
            written.insert(0, _with_logprobs(first, self._tokenizer, delta))
        if self.is_over or delta.finish_reason is not None:
            written.append(self._end(delta))
        return written

    def _reasoned(self, delta: TextDelta) -> int:
        """How many of the delta's tokens are reasoning, the last being that with which its marker ends."""
        left = 0 if self._parser.is_reasoning else len(self._parser.behind_reasoning.encode())
        count = min(delta.num_tokens, len(delta.token_ids) or delta.num_tokens)
        for token_id in reversed(delta.token_ids):
            if left <= 0 or count <= 1:
                break
            left -= len(self._token_bytes(token_id))
            count -= 1
        return delta.num_tokens if self._parser.is_reasoning else count

    def _deltas(self, index: int, pieces: list[Piece]) -> tuple[list[MessageDelta], bool]:
        """The pieces as deltas, and whether there was one call too many, which is left out with all after it."""
        written: list[MessageDelta] = []
        for piece in pieces:
            if isinstance(piece, CallStart):
                if self._calls == self._most_calls:
                    return written, True
                self._calls += 1
                call = CallDelta(position=self._calls - 1, id=self._call_id(), name=piece.name)
                written.append(MessageDelta(index=index, calls=(call,)))
            elif isinstance(piece, Arguments):
                call = CallDelta(position=self._calls - 1, arguments=piece.text)
                written.append(MessageDelta(index=index, calls=(call,)))
            elif isinstance(piece, Content):
                written.append(MessageDelta(index=index, content=piece.text))
            else:
                written.append(MessageDelta(index=index, reasoning=piece.text))
        return written, False

    def _end(self, delta: TextDelta) -> MessageDelta:
        reason = FinishReason.STOP if delta.finish_reason is None else delta.finish_reason
        is_called = self._calls > 0 and reason is FinishReason.STOP
        stop = delta.stop if isinstance(delta.stop, str) else None
        return MessageDelta(index=delta.index, finish_reason=TOOL_CALLS if is_called else reason.value, stop=stop)

    def _call_id(self) -> str:
        if self._short_ids:
            return "".join(secrets.choice(_ID_CHARS) for _ in range(_SHORT_ID_LENGTH))
        return f"{self._id_prefix}{secrets.token_hex(12)}"


def _with_logprobs(first: MessageDelta, tokenizer: Tokenizer, delta: TextDelta) -> MessageDelta:
    return MessageDelta(
        index=first.index,
        reasoning=first.reasoning,
        content=first.content,
        calls=first.calls,
        logprobs=token_logprobs(tokenizer, delta.logprobs),
    )
