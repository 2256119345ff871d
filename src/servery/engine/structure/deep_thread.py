"""A thread for code that recurses as deeply as its input asks and may not come back in time."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from servery.engine.constraint import invalid_constraint
from servery.engine.errors import Overloaded

T = TypeVar("T")

# Only what is used of it takes memory. With the usual 8 MB a grammar of 64 kB can overflow the stack.
STACK_BYTES = 256 * 1024 * 1024
LIMIT_S = 10.0  # real grammars take milliseconds, the largest that are accepted under a second
MAX_LEFT_BEHIND = 4  # each may keep a core busy
RETRY_AFTER_S = 10.0

log = logging.getLogger(__name__)


class _Call(Generic[T]):
    """What is to be run, and who waits for it."""

    def __init__(self, run: Callable[[], T]) -> None:
        self.run = run
        self.future: Future[T] = Future()
        self.started: float | None = None

    def fulfil(self, now: float) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        self.started = now
        # Once it is left behind its future has an error, and nobody waits for what it gives after all.
        with contextlib.suppress(InvalidStateError):
            try:
                result = self.run()
            except Exception as error:  # noqa: BLE001 - handed to whoever asked, who may expect any
                self.future.set_exception(error)
            except BaseException as panic:
                log.exception("a call on the thread %s broke off", threading.current_thread().name)
                self.future.set_exception(invalid_constraint(f"compiling it breaks off: {panic}."))
            else:
                self.future.set_result(result)


class _Worker:
    """One thread and its queue; None in the queue ends it."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.queue: SimpleQueue[_Call[Any] | None] = SimpleQueue()
        self.current: _Call[Any] | None = None
        self._clock = clock
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)
        before = threading.stack_size(STACK_BYTES)
        try:
            self.thread.start()
        finally:
            threading.stack_size(before)

    def _work(self) -> None:
        while (call := self.queue.get()) is not None:
            self.current = call
            call.fulfil(self._clock())
            self.current = None


class DeepThread:
    """Runs calls one after another on a thread with a deep stack.

    A call that takes longer than `limit_s` is left behind, thread and all, because no thread can be ended; those queued
    behind it go to a new thread. While too many are left behind, nothing is taken.
    """

    def __init__(self, name: str, limit_s: float = LIMIT_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._limit_s = limit_s
        self._clock = clock
        self._worker: _Worker | None = None
        self._left: list[_Worker] = []

    def submit(self, run: Callable[[], T]) -> "Future[T]":
        """Run `run` when the calls before it are done; raises `Overloaded` when too many have not come back."""
        call = _Call(run)
        self._put(call)
        return call.future

    def check_time(self) -> None:
        """Leave a call behind that is over its time: its future gets an `InvalidRequest`. To be called now and then."""
        worker = self._worker
        call = worker.current if worker is not None else None
        if worker is None or call is None or call.started is None or self._clock() - call.started < self._limit_s:
            return
        log.warning("a call on the thread %s takes more than %.0f s; it is left behind", self._name, self._limit_s)
        self._left.append(worker)
        self._worker = None
        with contextlib.suppress(InvalidStateError):  # done just now
            call.future.set_exception(
                invalid_constraint(f"it cannot be compiled within {self._limit_s:g} s; make it simpler.")
            )
        for waiting in _drain(worker.queue):
            try:
                self._put(waiting)
            except Overloaded as error:
                waiting.future.set_exception(error)

    def _put(self, call: _Call[Any]) -> None:
        if self._worker is None:
            self._left = [worker for worker in self._left if worker.thread.is_alive()]
            if len(self._left) >= MAX_LEFT_BEHIND:
                raise Overloaded(
                    f"{len(self._left)} grammars that nobody waits for any more are still being compiled; constrained "
                    "requests are taken again when one of them is done.",
                    RETRY_AFTER_S,
                )
            self._worker = _Worker(self._name, self._clock)
        self._worker.queue.put(call)


def _drain(queue: "SimpleQueue[_Call[Any] | None]") -> list[_Call[Any]]:
    """What is queued, in order; the thread that reads the queue ends when its call does."""
    waiting = []
    with contextlib.suppress(Empty):
        while (call := queue.get_nowait()) is not None:
            waiting.append(call)
    queue.put(None)
    return waiting
