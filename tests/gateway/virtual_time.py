"""An event loop whose clock jumps to the next timer when there is nothing else to do: no test waits for time to pass."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Impatient(selectors.SelectSelector):
    """Waits for nothing: the time that it was to wait passes at once. Only for loops without sockets of others."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("everybody waits, and for no timer: the story hangs")
        self.passed_s += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time begins at 1000 s."""

    def __init__(self) -> None:
        self._impatient = _Impatient()
        super().__init__(self._impatient)

    def time(self) -> float:
        return 1000.0 + self._impatient.passed_s


def run(story: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What the story gives, told in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story())


def now() -> float:
    """The running loop's time."""
    return asyncio.get_running_loop().time()
