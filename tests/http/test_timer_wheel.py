"""The wheel against a heap: what is due, when, in which order."""

import asyncio
import heapq
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.http.deadline import Deadline
from servery.http.timer_wheel import LoopTimers, Timer, TimerWheel
from tests.http.conftest import Run

TICK_S = 0.02


class HeapTimers:
    """What a timer is, told in the plainest way: due one tick after the tick that its deadline lies in."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int]] = []
        self.cancelled: set[int] = set()

    def advance(self, now: float) -> list[int]:
        due = []
        while self.heap and self.heap[0][0] <= now:
            _, number = heapq.heappop(self.heap)
            if number not in self.cancelled:
                due.append(number)
        return due


seconds = st.one_of(st.floats(0, 0.3), st.floats(0, 20), st.sampled_from([0.0, TICK_S, 2 * TICK_S, 16 * TICK_S]))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), seconds),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("advance"), seconds),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(start=st.sampled_from([0.0, 12345.678, 1e6]), steps=steps)
def test_the_wheel_fires_what_a_heap_fires_never_early_and_a_tick_late_at_most(
    start: float, steps: list[tuple[str, float]]
) -> None:
    now = start
    wheel, heap = TimerWheel(now, TICK_S, slots=16), HeapTimers()
    timers: list[Timer] = []
    numbers: dict[Timer, int] = {}
    fired: set[int] = set()
    for step, value in steps:
        if step == "add":
            timer = wheel.add(now + value, lambda: None)
            numbers[timer] = len(timers)
            heapq.heappush(heap.heap, (timer.at, len(timers)))
            timers.append(timer)
        elif step == "cancel" and value < len(timers):
            timers[int(value)].cancel()
            heap.cancelled.add(int(value))
        elif step == "advance":
            now += value
            due = wheel.advance(now)
            assert all(timer.at <= now for timer in due), "early"
            assert [timer.at for timer in due] == sorted(timer.at for timer in due)
            fired.update(numbers[timer] for timer in due)
            # All that a heap fires, but for what became due within the tick that is still running.
            due_by_heap = set(heap.advance(now - TICK_S - 1e-9))
            assert due_by_heap <= fired
        waiting = {n for n in range(len(timers)) if n not in fired and n not in heap.cancelled}
        assert len(wheel) == len(waiting)
    now += 1e4
    assert {numbers[timer] for timer in wheel.advance(now)} == waiting if steps else True
    assert len(wheel) == 0


def test_a_clock_that_goes_back_fires_nothing() -> None:
    wheel = TimerWheel(100.0, TICK_S)
    wheel.add(100.5, lambda: None)
    assert wheel.advance(101.0) != []
    wheel.add(101.5, lambda: None)
    assert wheel.advance(99.0) == []
    assert len(wheel.advance(102.0)) == 1


def test_a_cancelled_timer_does_not_fire_even_when_it_was_due() -> None:
    fired: list[str] = []
    wheel = TimerWheel(0.0, TICK_S)
    first = wheel.add(0.1, lambda: fired.append("first"))
    second = wheel.add(0.1, lambda: fired.append("second"))
    due = wheel.advance(1.0)
    second.cancel()
    for timer in due:
        timer.fire()
        timer.fire()
    first.cancel()
    assert fired == ["first"]
    assert len(wheel) == 0


def test_the_loop_turns_the_wheel_only_while_there_is_something_in_it(run: Run) -> None:
    async def story() -> None:
        timers = LoopTimers(asyncio.get_running_loop(), tick_s=0.005)
        loop = timers.loop
        fired: list[float] = []
        begun = loop.time()
        for after in (0.03, 0.01, 0.02):
            timers.add(begun + after, lambda after=after: fired.append(after))
        await asyncio.sleep(0.08)
        assert fired == [0.01, 0.02, 0.03]
        assert timers._handle is None
        again = asyncio.Event()
        timers.add(loop.time(), again.set)
        await again.wait()

    run(story)


def test_the_wheel_is_not_turned_before_there_is_something_to_be_looked_at() -> None:
    wheel = TimerWheel(0.0)
    assert wheel.next_at() is None
    far, near = wheel.add(600.01, print), wheel.add(5.01, print)
    assert wheel.next_at() == wheel.passes_at(near) == 251 * TICK_S
    near.cancel()
    assert wheel.passes_at(far) == 30_001 * TICK_S
    assert wheel.next_at() == 30_001 % 2048 * TICK_S  # its slot, in this turn
    assert wheel.advance(600.01) == []
    assert wheel.next_at() == wheel.passes_at(far)
    assert wheel.advance(600.03) == [far]
    assert wheel.next_at() is None


def test_what_is_due_sooner_than_all_before_turns_the_wheel_sooner(run: Run) -> None:
    async def story() -> None:
        timers = LoopTimers(asyncio.get_running_loop(), tick_s=0.005)
        fired = asyncio.Event()
        far = timers.add(timers.loop.time() + 600.0, print)
        timers.add(timers.loop.time() + 0.01, fired.set)
        await asyncio.wait_for(fired.wait(), 20.0)
        assert len(timers) == 1
        far.cancel()
        timers.close()

    run(story)


def test_one_callback_that_fails_does_not_keep_the_others_from_their_turn(run: Run) -> None:
    async def story() -> None:
        complaints: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context["exception"]))
        timers = LoopTimers(loop, tick_s=0.005)
        done = asyncio.Event()
        error = ZeroDivisionError()

        def fail() -> None:
            raise error

        timers.add(loop.time(), fail)
        timers.add(loop.time() + 0.001, done.set)
        await done.wait()
        assert complaints == [error]

    run(story)


def _deadline_story(inside: Callable[[LoopTimers], object]) -> Callable[[], object]:
    async def story() -> None:
        timers = LoopTimers(asyncio.get_running_loop(), tick_s=0.005)
        await inside(timers)  # type: ignore[misc]
        assert len(timers) == 0

    return story


def test_a_deadline_raises_its_error_in_place_of_the_cancellation(run: Run) -> None:
    async def inside(timers: LoopTimers) -> None:
        with pytest.raises(KeyError, match="late"), Deadline(timers, timers.loop.time() + 0.01, KeyError("late")):
            await asyncio.Event().wait()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        with Deadline(timers, timers.loop.time() + 10, KeyError("late")):
            await asyncio.sleep(0)

    run(_deadline_story(inside))


def test_a_cancellation_from_elsewhere_goes_through_a_deadline(run: Run) -> None:
    async def wait(timers: LoopTimers, after: float) -> None:
        with Deadline(timers, timers.loop.time() + after, KeyError("late")):
            await asyncio.Event().wait()

    async def inside(timers: LoopTimers) -> None:
        task = asyncio.ensure_future(wait(timers, 10))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        # Both at once: the deadline passes, and before the task runs somebody cancels it as well.
        timers_of_both = LoopTimers(timers.loop, tick_s=0.005)
        both = asyncio.ensure_future(wait(timers_of_both, 0.01))
        await asyncio.sleep(0)
        timers_of_both.add(timers.loop.time() + 0.0101, both.cancel)
        await asyncio.wait([both])
        assert both.cancelled() or isinstance(both.exception(), KeyError)

    run(_deadline_story(inside))
