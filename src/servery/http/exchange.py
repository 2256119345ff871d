"""One request and its answer on one connection: what has come, who waits for it, which deadline is next."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from servery.http.answer_reader import AnswerReader
from servery.http.errors import Disconnected, HttpError, Limit, TimedOut
from servery.http.limits import ClientLimits, Deadlines
from servery.http.timer_wheel import LoopTimers, Timer
from servery.http.url import Origin
from servery.http.whole_chunks import whole_chunks


class Phase(Enum):
    """How far an exchange is. Each phase has its own deadline."""

    SEND = "send"
    HEAD = "head"
    FIRST_PIECE = "first piece"
    BODY = "body"
    OVER = "over"


class Carrier(Protocol):
    """What an exchange asks of its connection."""

    @property
    def unsent_bytes(self) -> int:
        """How much of what was written the system has not taken yet."""

    def pause_reading(self) -> None:
        """Read nothing more until `resume_reading`."""

    def resume_reading(self) -> None:
        """Read on."""

    def leave(self, is_reusable: bool) -> None:
        """The exchange is over."""

    # When the wheel calls `ring`, which has the exchange of then judged. It stays from one exchange to the next, and is
    # left alone as long as deadlines only move later.
    timer: Timer | None

    def ring(self) -> None:
        """The timer's time has come."""


class Exchange:
    """The receiving side of a request. Fails at most once; what arrived before a failure can still be read."""

    __slots__ = (
        *("_body_task", "_carrier", "_deadlines", "_first_use", "_is_paused", "_last_at", "_limits", "_origin"),
        *("_pending_bytes", "_phase", "_pieces", "_sent_at", "_sink", "_timers", "_total_at", "_unsent_bytes"),
        *("_waiter", "_waiting_since", "error", "is_over", "is_written", "reader"),
    )

    def __init__(
        self,
        carrier: Carrier,
        origin: Origin,
        reader: AnswerReader,
        timers: LoopTimers,
        limits: ClientLimits,
        deadlines: Deadlines,
        total_at: float,
        *,
        is_first_use: bool,
    ) -> None:
        self.reader = reader
        self.error: Exception | None = None
        self.is_written = False  # whether bytes of the request may have reached the server
        self._carrier = carrier
        self._origin = origin
        self._timers = timers
        self._limits = limits
        self._deadlines = deadlines
        self._total_at = total_at
        self._first_use = is_first_use
        self._phase = Phase.SEND
        self._sent_at = self._last_at = self._waiting_since = timers.loop.time()
        self._unsent_bytes = 0
        self._pieces: deque[bytes] = deque()
        self._pending_bytes = 0
        self._is_paused = False
        self._waiter: asyncio.Future[bool] | None = None
        self._sink: Callable[[bytes], bool] | None = None
        self._body_task: asyncio.Task[None] | None = None
        self.is_over = False  # the connection was let go, after the end or after an error

    # What the sender tells.

    def sending(self, task: asyncio.Task[None] | None = None) -> None:
        """The request is on its way, but not all of it was taken by the system yet, or made: `task` makes its body."""
        self._body_task = task
        self._unsent_bytes = self._carrier.unsent_bytes
        self._watch()

    def sent(self) -> None:
        """The whole request is written."""
        if self._phase is Phase.SEND:
            self._phase = Phase.HEAD
            self._sent_at = self._last_at = self._timers.loop.time()
            self._watch()

    def write_resumed(self) -> None:
        """The system has taken what was written; with a body in the making that is not all there is."""
        self._last_at = self._timers.loop.time()
        if self._body_task is None:
            self.sent()

    # What the connection tells.

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer."""
        reader = self.reader
        if self._sink is not None and reader.is_between_chunks and (piece := whole_chunks(data)) is not None:
            if self._deadlines.stall_s < math.inf:
                self._last_at = self._timers.loop.time()
            self._pour(piece)
            return
        try:
            reader.feed(data)
        except HttpError as error:
            self._keep(reader.take())
            self.fail(self._placed(error))
            return
        piece = reader.take()
        if piece:
            self._keep(piece)
        if reader.is_complete:
            self._end()
        elif self._phase is Phase.FIRST_PIECE or self._phase is Phase.BODY:
            self._last_at = self._timers.loop.time()
            if self._pieces:
                self._phase = Phase.BODY
        elif reader.head is not None:
            self._last_at = self._timers.loop.time()
            self._phase = Phase.BODY if self._pieces else Phase.FIRST_PIECE
            self._watch()
        if reader.head is not None and (self._sink is None or reader.is_complete):
            self._wake()

    def end_received(self) -> None:
        """The server has closed its side in good order."""
        if self.reader.feed_end():
            self._end()
            self._wake()

    def connection_lost(self, cause: Exception | None) -> None:
        """There is no connection any more."""
        is_begun = self.reader.is_begun
        is_crossed = self._phase is Phase.SEND or self._timers.loop.time() - self._sent_at <= self._limits.crossed_s
        where = "in the middle of its answer" if is_begun else "without an answer"
        why = f" ({cause})" if cause is not None else ""
        self.fail(
            Disconnected(
                f"{self._origin} closed the connection {where}{why}.",
                **self._progress(),
                is_stale=not self._first_use and not is_begun and is_crossed,
            )
        )

    def fail(self, error: Exception) -> None:
        """Nothing more will come: `error` is raised to whoever reads on. The first one counts."""
        if self._phase is not Phase.OVER:
            self.error = error
            self._leave(is_reusable=False)
            self._wake()

    # What the reader of the answer asks.

    @property
    def is_read(self) -> bool:
        """Whether the whole body came and was taken."""
        return self.reader.is_complete and not self._pieces

    def take(self) -> bytes | None:
        """The next bytes of the body as one read brought them, empty at the end, None if there are none yet."""
        if not self._pieces:
            return b"" if self.reader.is_complete else None
        piece = self._pieces.popleft()
        self._pending_bytes -= len(piece)
        if self._is_paused and self._pending_bytes <= self._limits.buffer_bytes // 2:
            self._is_paused = False
            if self._phase is not Phase.OVER:
                self._carrier.resume_reading()
        return piece

    def changed(self) -> "asyncio.Future[bool]":
        """What is done when there are bytes of the answer, or its end. Raises what broke the exchange.

        Who is cancelled while waiting for it is to abandon the exchange.
        """
        if self.error is not None:
            raise self.error
        loop = self._timers.loop
        self._waiting_since = loop.time()
        waiter = self._waiter = loop.create_future()
        return waiter

    def poured(self, sink: Callable[[bytes], bool]) -> "asyncio.Future[bool]":
        """The same, but every piece is given to `sink` in the call that brings it, as long as that says True.

        What is returned is False when it has said False, and raises what `sink` raises.
        """
        waiter = self.changed()
        self._sink = sink
        return waiter

    def abandon(self) -> None:
        """Nobody wants the rest: close the connection, unless the answer is complete."""
        if self._pieces:
            self._pieces.clear()
        if self._phase is not Phase.OVER:
            self.fail(Disconnected(f"The answer of {self._origin} was given up.", **self._progress()))

    def _pour(self, piece: bytes) -> None:
        sink, waiter = self._sink, self._waiter
        if sink is None or waiter is None:
            return
        if self._phase is Phase.FIRST_PIECE:
            self._phase = Phase.BODY
        try:
            if not sink(piece):
                self._wake(is_changed=False)
        except Exception as error:  # noqa: BLE001 - whatever it is, the one who waits raises it again
            self._sink = self._waiter = None
            if not waiter.done():  # else who waited was cancelled
                waiter.set_exception(error)

    def _keep(self, piece: bytes) -> None:
        if piece and self._sink is not None:
            self._pour(piece)
        elif piece:
            self._pieces.append(piece)
            self._pending_bytes += len(piece)
            if self._pending_bytes > self._limits.buffer_bytes and not self._is_paused:
                self._is_paused = True
                self._carrier.pause_reading()

    def _wake(self, *, is_changed: bool = True) -> None:
        waiter, self._waiter, self._sink = self._waiter, None, None
        if waiter is not None and not waiter.done():
            waiter.set_result(is_changed)

    def _end(self) -> None:
        is_sent = self._phase is not Phase.SEND
        self._leave(is_reusable=is_sent and self.reader.is_reusable and not self.reader.has_surplus)

    def _leave(self, *, is_reusable: bool) -> None:
        self._phase = Phase.OVER
        self.is_over = True
        if self._body_task is not None:
            self._body_task.cancel()
            self._body_task = None
        if not self.reader.is_over:
            self.reader.close()
        if self._is_paused and is_reusable:
            self._is_paused = False
            self._carrier.resume_reading()
        self._carrier.leave(is_reusable)

    # Deadlines.

    def _watch(self) -> None:
        """Have the wheel call at the next deadline, unless it calls before that anyway."""
        at, _, _ = self._next_deadline()
        timer = self._carrier.timer
        if timer is not None and timer.at > at:
            timer.cancel()
            timer = None
        if timer is None:
            self._carrier.timer = self._timers.add(at, self._carrier.ring) if at < math.inf else None

    def judge(self) -> None:
        """Fail if a deadline has passed, else be called again at the next one."""
        if self._phase is Phase.OVER:
            return
        now = self._timers.loop.time()
        if self._phase is Phase.SEND and self._carrier.unsent_bytes < self._unsent_bytes:
            self._unsent_bytes = self._carrier.unsent_bytes
            self._last_at = now
        at, limit, limit_s = self._next_deadline()
        if at <= now:
            self.fail(self._late(limit, limit_s))
        else:
            self._watch()

    def _next_deadline(self) -> tuple[float, Limit, float]:
        deadlines = self._deadlines
        match self._phase:
            case Phase.SEND:
                at, limit, limit_s = self._last_at + deadlines.stall_s, Limit.SEND, deadlines.stall_s
            case Phase.HEAD:
                at, limit, limit_s = self._sent_at + deadlines.head_s, Limit.HEAD, deadlines.head_s
            case _:
                silent_since = max(self._last_at, self._waiting_since)
                if self._waiter is None:  # who does not read cannot be kept waiting
                    silent_since = self._timers.loop.time()
                at, limit, limit_s = silent_since + deadlines.stall_s, Limit.STALL, deadlines.stall_s
        if self._phase in (Phase.HEAD, Phase.FIRST_PIECE) and deadlines.first_piece_s < math.inf:
            first = self._sent_at + deadlines.first_piece_s
            if first < at or self._phase is Phase.FIRST_PIECE:
                at, limit, limit_s = first, Limit.FIRST_PIECE, deadlines.first_piece_s
        if self._total_at < at:
            at, limit, limit_s = self._total_at, Limit.TOTAL, deadlines.total_s
        return at, limit, limit_s

    def _late(self, limit: Limit, limit_s: float) -> TimedOut:
        what = {
            Limit.SEND: "took no more of the request for",
            Limit.HEAD: "gave no answer for",
            Limit.FIRST_PIECE: "sent nothing of its answer's body for",
            Limit.STALL: "was silent in the middle of its answer for",
        }.get(limit, "did not end its answer within")
        message = f"{self._origin} {what} {limit_s:g} s ({limit} limit)."
        return TimedOut(message, limit=limit, limit_s=limit_s, **self._progress())

    def _placed(self, error: HttpError) -> HttpError:
        return type(error)(f"The answer of {self._origin} is refused: {error}", **self._progress())

    def _progress(self) -> dict[str, Any]:
        return {
            "origin": str(self._origin),
            "nothing_received": not self.reader.is_begun,
            "request_written": self.is_written,
        }
