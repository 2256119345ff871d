"""The seam between a deployment elsewhere and its kind: what to send, how to read what comes. No I/O but signing."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from servery.upstream.ask import Ask
from servery.upstream.failure import UpstreamFailure
from servery.upstream.upstream import Call, Chunk
from servery.wire.chat import ChatRequest
from servery.wire.errors import ApiError

EVENTS = "text/event-stream"
JSON = "application/json"


class AnswerReader(Protocol):
    """Reads one answer: `feed` for each piece of its body, `end` behind the last. One instance per answer."""

    def feed(self, data: bytes) -> Sequence[Chunk]:
        """What the client can be told now; raises `ApiError` and `UpstreamFailure`."""
        ...

    def end(self) -> Sequence[Chunk]:
        """What is left to tell; raises `ApiError`, and `UpstreamFailure` for an answer that has not come to its end."""
        ...


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A request for an answer: POST `path`, which lies under the deployment's url, and who reads a good answer.

    `content_type` is what such an answer is.
    """

    path: str
    body: bytes
    reader: AnswerReader
    headers: Sequence[tuple[str, str]] = ()
    content_type: str = JSON


class Provider(Protocol):
    """Speaks to one deployment of a kind."""

    @property
    def models_path(self) -> str | None:
        """What lists its models, as OpenAI or Anthropic do; None where nothing does."""
        ...

    @property
    def constant_credentials(self) -> Sequence[tuple[str, str]] | None:
        """The headers that let every request in; None where `credentials` has to be asked each time."""
        ...

    def outgoing(self, ask: Ask, call: Call) -> Outgoing:
        """The request for an answer; raises `ApiError`, and `UpstreamFailure` for what the deployment cannot do."""
        ...

    def counting(self, request: ChatRequest) -> tuple[str, bytes] | None:
        """The path and body that ask for the prompt's tokens, answered by `input_tokens`; None where nobody counts."""
        ...

    async def credentials(self, method: str, url: str, body: bytes) -> Sequence[tuple[str, str]]:
        """The headers that let a request in; raises `UpstreamFailure` where there are none to be had."""
        ...

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> ApiError | UpstreamFailure:
        """The exception for an answer with an error status; names of `headers` are in lower case."""
        ...
