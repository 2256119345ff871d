"""How often somebody may try to log in: so many failures from one address, and so many from all together."""

from collections import OrderedDict, deque
from collections.abc import Callable

WINDOW_S = 60.0
MOST_FAILURES = 5
MOST_FAILURES_OF_ALL = 60
_MOST_ADDRESSES = 4096


class Attempts:
    """Failures of the last minute. `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=MOST_FAILURES_OF_ALL)

    def wait_s(self, address: str) -> float:
        """How long until the next attempt from an address is heard; 0: at once."""
        now = self._clock()
        own = self._failures.get(address, deque())
        waits = [_wait_s(own, MOST_FAILURES, now), _wait_s(self._all, MOST_FAILURES_OF_ALL, now)]
        return max(waits)

    def fail(self, address: str) -> None:
        """An attempt from an address has failed."""
        now = self._clock()
        own = self._failures.pop(address, None) or deque(maxlen=MOST_FAILURES)
        own.append(now)
        self._failures[address] = own
        self._all.append(now)
        if len(self._failures) > _MOST_ADDRESSES:
            self._failures.popitem(last=False)

    def succeed(self, address: str) -> None:
        """An attempt has succeeded: what was tried before was a slip."""
        self._failures.pop(address, None)


def _wait_s(failures: "deque[float]", most: int, now: float) -> float:
    return max(0.0, failures[0] + WINDOW_S - now) if len(failures) >= most else 0.0
