"""A thread for calls that may not come back."""

import threading

import pytest

from servery.engine.errors import InvalidRequest, Overloaded
from servery.engine.structure.deep_thread import MAX_LEFT_BEHIND, DeepThread


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def hang(thread: DeepThread) -> tuple[threading.Event, object]:
    """A call under way that ends when the event is set."""
    begun, end = threading.Event(), threading.Event()

    def call() -> str:
        begun.set()
        assert end.wait(60)
        return "late"

    future = thread.submit(call)
    assert begun.wait(60)
    return end, future


def test_calls_run_in_order_and_errors_reach_the_caller() -> None:
    thread, order = DeepThread("test"), []
    futures = [thread.submit(lambda n=n: order.append(n)) for n in range(5)]
    broken = thread.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        broken.result(60)
    assert ([future.result(60) for future in futures], order) == ([None] * 5, [0, 1, 2, 3, 4])


def test_the_stack_is_deep() -> None:
    def depth(n: int) -> int:
        return 0 if n == 0 else 1 + max(map(depth, [n - 1]))

    import sys

    def call() -> int:
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(200_000)
        try:
            return depth(60_000)
        finally:
            sys.setrecursionlimit(before)

    assert DeepThread("test").submit(call).result(60) == 60_000


def test_a_call_that_takes_too_long_is_left_behind_and_the_next_goes_on() -> None:
    clock = Clock()
    thread = DeepThread("test", 5.0, clock)
    end, stuck = hang(thread)
    behind = thread.submit(lambda: "next")
    clock.now = 4.9
    thread.check_time()
    assert not stuck.done()
    clock.now = 5.0
    thread.check_time()
    assert behind.result(60) == "next"
    with pytest.raises(InvalidRequest, match="cannot be compiled within 5 s; make it simpler"):
        stuck.result(60)
    end.set()


def test_with_too_many_left_behind_nothing_is_taken_until_one_ends() -> None:
    clock = Clock()
    thread = DeepThread("test", 5.0, clock)
    ends = []
    for _ in range(MAX_LEFT_BEHIND):
        ends.append(hang(thread)[0])
        clock.now += 5
        thread.check_time()
    with pytest.raises(Overloaded, match="4 grammars that nobody waits for"):
        thread.submit(lambda: None)
    left = thread._left[0].thread
    ends[0].set()
    left.join(60)
    assert thread.submit(lambda: "again").result(60) == "again"
    for end in ends:
        end.set()
