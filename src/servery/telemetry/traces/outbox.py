"""Traces on their way to a collector: taken without waiting, sent by a thread of their own, and never too many.

Nothing here can slow or fail a request: what does not fit is dropped and counted, and a collector that hangs holds up only
the thread.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from servery.telemetry.traces.trace import Trace

log = logging.getLogger(__name__)

BATCH_SPANS = 512
_QUIET_S = 60.0  # of spans that were lost a line is written so often at most


@dataclass(frozen=True, slots=True)
class SpanFigures:
    """What became of spans. `dropped`: there was no room; `failed`: the collector did not take them."""

    exported: int = 0
    dropped: int = 0
    failed: int = 0
    waiting: int = 0


class Exporter(Protocol):
    """Sends spans; called by one thread."""

    def export(self, traces: Sequence[Trace]) -> bool:
        """Whether they were taken; may take its time."""
        ...

    def shutdown(self) -> None:
        """Give up what is being sent; called by another thread."""


class Outbox:
    """Holds at most `max_spans`, those under way included."""

    def __init__(
        self,
        make: Callable[[], Exporter],
        *,
        max_spans: int,
        linger_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`make` is called by the thread that sends: what it loads takes a while."""
        self._make = make
        self._max_spans = max_spans
        self._linger_s = linger_s
        self._clock = clock
        self._waiting: deque[Trace] = deque()
        self._room = threading.Condition()
        self._spans = self._exported = self._dropped = self._failed = 0
        self._is_closing = False
        self._exporter: Exporter | None = None
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._quiet_until_s = -_QUIET_S

    @property
    def figures(self) -> SpanFigures:
        """As they are."""
        return SpanFigures(self._exported, self._dropped, self._failed, self._spans)

    def start(self) -> None:
        """Begin to send, in this process."""
        self._thread.start()

    def put(self, trace: Trace) -> None:
        """Take a trace over, or drop it."""
        count = len(trace.spans)
        with self._room:
            if self._is_closing or self._spans + count > self._max_spans:
                self._dropped += count
                return
            self._spans += count
            self._waiting.append(trace)
            if len(self._waiting) == 1 or self._spans >= BATCH_SPANS:
                self._room.notify()

    def close(self, limit_s: float) -> None:
        """Send what waits, for so long at most; the rest is lost."""
        with self._room:
            self._is_closing = True
            self._room.notify()
        if self._thread.ident is not None:
            self._thread.join(limit_s)
        if self._thread.is_alive() and self._exporter is not None:
            self._exporter.shutdown()

    def _run(self) -> None:
        self._exporter = exporter = self._make()
        while batch := self._batch():
            count = sum(len(trace.spans) for trace in batch)
            is_taken = exporter.export(batch)
            with self._room:
                self._spans -= count
                if is_taken:
                    self._exported += count
                else:
                    self._failed += count
            self._tell_losses()
        exporter.shutdown()

    def _batch(self) -> list[Trace]:
        """What is to be sent together; nothing at the end."""
        with self._room:
            while not self._waiting and not self._is_closing:
                self._room.wait()
            if not self._is_closing and self._spans < BATCH_SPANS:
                self._room.wait(self._linger_s)
            batch: list[Trace] = []
            count = 0
            while self._waiting and (not batch or count + len(self._waiting[0].spans) <= BATCH_SPANS):
                batch.append(self._waiting.popleft())
                count += len(batch[-1].spans)
            return batch

    def _tell_losses(self) -> None:
        now = self._clock()
        if (self._failed or self._dropped) and now >= self._quiet_until_s:
            self._quiet_until_s = now + _QUIET_S
            log.warning(
                "traces: %d spans were not taken by the collector so far, for %d there was no room; requests go on.",
                self._failed,
                self._dropped,
            )
