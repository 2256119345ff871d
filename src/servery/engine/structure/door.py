"""Where a constraint is checked before it goes anywhere: in the server, and in `LLM` before anything is computed."""

import asyncio
from collections import OrderedDict
from concurrent.futures import Future, wait

from servery.engine.constraint import Constraint
from servery.engine.structure.deep_thread import LIMIT_S, DeepThread
from servery.engine.structure.grammar import check_constraint

MAX_KNOWN = 256  # constraints known to be good


class Door:
    """Checks constraints on a thread of its own, so that nobody else waits, and remembers the newest good ones."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._thread = DeepThread("grammar-door", limit_s)
        self._known: OrderedDict[Constraint, None] = OrderedDict()

    async def check(self, constraint: Constraint) -> None:
        """Raise `InvalidRequest` if it cannot be enforced, `Overloaded` if too many cannot be told in time."""
        if (future := self._start(constraint)) is None:
            return
        waited = asyncio.wrap_future(future)
        # Whoever waits may be gone when it fails: asyncio would log an error that nobody has looked at.
        waited.add_done_callback(lambda done: done.cancelled() or done.exception())
        while not future.done():
            await asyncio.wait([waited], timeout=self._limit_s)
            self._thread.check_time()
        self._finish(constraint, future)

    def check_now(self, constraint: Constraint) -> None:
        """As `check`, for callers that may wait."""
        if (future := self._start(constraint)) is None:
            return
        while not future.done():
            wait([future], self._limit_s)
            self._thread.check_time()
        self._finish(constraint, future)

    def _start(self, constraint: Constraint) -> "Future[None] | None":
        if constraint in self._known:
            self._known.move_to_end(constraint)
            return None
        return self._thread.submit(lambda: check_constraint(constraint))

    def _finish(self, constraint: Constraint, future: "Future[None]") -> None:
        future.result()
        self._known[constraint] = None
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
