"""The seam: what a server asks of any place where a model runs.

An upstream takes what a client asks and gives back the answer as the client will read it, piece by piece; whoever relays
it needs no second look at the bytes, because each piece says what it means for timings and counts.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from servery.engine.stats import EngineStats
from servery.telemetry.traces.trace import Onward
from servery.upstream.ask import Ask
from servery.wire.chat import ChatRequest
from servery.wire.message import AnswerForm, MessageDelta
from servery.wire.models import Model
from servery.wire.tokenize import DetokenizeRequest, TokenizeRequest
from servery.wire.usage import Usage


class Sink:
    """Where the pieces of an answer may go in the very call that brings them, without waking who iterates over it.

    Whoever reads the answer sets `take`; it says whether it took a piece. One that it does not take, and everything
    that happens else, comes out of the iteration, and so does all of an answer whose upstream knows of no sink.
    """

    __slots__ = ("take",)

    def __init__(self) -> None:
        self.take: Callable[[Chunk], bool] | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt at an answer: until when it is wanted (monotonic seconds), and how long a connection may take.

    `stall_s` is how long a deployment elsewhere may be silent once it has begun an answer that is not streamed; of a stream
    that is judged by whoever waits for its next piece.

    `id` is no other attempt's. `priority` is the engine's: lower numbers first. `form` writes the answer to a chat in the
    client's form; None: `Ask.form` makes one. An answer that goes on where another upstream left it has no `form` of its
    own: of its stream only `deltas` are read, so it is not to be passed on as it comes. `continued` is what the client
    has of it already, made of `spent_tokens`, for an upstream that can go on from there. `adapter` is the upstream's own: the id of the adapter that it found, 0 for none. `onward` is where the attempt stands in a
    trace, for a deployment elsewhere to go on with. `sink` is where pieces of a stream may go at once.
    """

    id: str
    deadline: float | None = None
    priority: int = 0
    connect_s: float | None = None
    stall_s: float | None = None
    form: AnswerForm | None = None
    continued: str | None = None
    spent_tokens: int = 0
    adapter: int = 0
    onward: Onward | None = None
    sink: Sink | None = None


class Chunk(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A piece of an answer.

    `data` are bytes for the client: whole events of a stream, without OpenAI's [DONE], or the body of an answer that is
    not streamed; they may be empty when a piece only tells of progress. `deltas` say the same as `data`, where
    the upstream knows it. `tokens` are new ones of completion `index`; `finish_reason` is set when that completion ends.
    `prompt_tokens`, `cached_tokens` and `queued_s` come once per prompt, with its first piece. `usage` is the upstream's
    own count of the whole answer, which counts more than the sum of the pieces; `is_estimated` if any count is a guess.
    `is_refusal`: what it says is that there will be no answer.
    """

    data: bytes = b""
    index: int = 0
    tokens: int = 0
    finish_reason: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    queued_s: float | None = None
    deltas: tuple[MessageDelta, ...] = ()
    usage: Usage | None = None
    is_estimated: bool = False
    is_refusal: bool = False

    def saying(self, data: bytes, finish_reason: str | None, deltas: tuple[MessageDelta, ...] = ()) -> "Chunk":
        """The same piece, with what it says to the client."""
        return msgspec.structs.replace(self, data=data, finish_reason=finish_reason, deltas=deltas)


class Health(msgspec.Struct, frozen=True, gc=False):
    """Whether new requests are taken, if not why, and how long ago the upstream gave a sign of life.

    `is_alive` is False for one that hung or died, until it is back. `is_wanted` is False for one that takes no requests
    because somebody unloaded it: a server is ready without it.
    """

    is_ready: bool
    reason: str
    heartbeat_age_s: float
    is_alive: bool = True
    is_wanted: bool = True


class Upstream(Protocol):
    """One model, somewhere, and the LoRA adapters over it: a request whose `model` is not `name` is for one of these."""

    @property
    def name(self) -> str:
        """What clients ask for, and metrics are labelled with."""
        ...

    async def start(self) -> None:
        """Connect, or load the model. Raises what says that it never will."""

    async def stop(self) -> None:
        """Let go of everything; answers under way fail. Safe to call twice, and before `start`."""

    def health(self) -> Health:
        """How it is now; no waiting."""

    def model(self) -> Model:
        """The model's description for `/v1/models`."""

    def adapters(self) -> Mapping[str, Model]:
        """What there is besides, by the adapter's own name; an id of `/v1/models` is `base:adapter`."""
        ...

    async def load_adapter(self, name: str, path: Path) -> None:
        """Let requests ask for the adapter in a folder; raises `ApiError`."""

    def unload_adapter(self, name: str) -> int:
        """Let no further request ask for an adapter; returns how many are answered with it now. Raises `ApiError`."""
        ...

    def stats(self) -> EngineStats | None:
        """The engine's figures, None where there are none to be had."""

    def answer(self, ask: Ask, call: Call) -> AsyncGenerator[Chunk, None]:
        """The answer; close the generator to stop it being computed.

        Raises, before the first chunk or in the middle, `ApiError` for what is the client's own fault, which another
        attempt would not mend, and `UpstreamFailure` for what is not.
        """

    async def tokenize(self, request: TokenizeRequest) -> bytes:
        """The body of the answer to `/tokenize`; raises `ApiError`."""

    async def count(self, request: ChatRequest) -> int:
        """How many tokens the chat's prompt has; raises `ApiError`."""

    async def detokenize(self, request: DetokenizeRequest) -> bytes:
        """The body of the answer to `/detokenize`; raises `ApiError`."""
