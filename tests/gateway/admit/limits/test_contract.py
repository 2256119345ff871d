"""What every store of limits keeps, in memory as in Redis."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from servery.config.types import Limits
from servery.gateway.admit.limits.meter import UNIT, Cost, Lease, Measure, Plan, day_of, month_of
from tests.gateway.admit.limits.backends import Backend, Clock, in_memory, in_redis, plan_of

LEASE_MS = 5_000
LIMITS = Limits(
    requests_per_minute=6, input_tokens_per_minute=90, output_tokens_per_minute=60, concurrency=3, microusd_per_day=500,
    microusd_per_month=700, burst_s=30.0,
)  # fmt: skip
OWNER = Limits(output_tokens_per_minute=100, microusd_per_day=800, concurrency=4)
PLANS = [
    plan_of(("key", "a", LIMITS), ("owner", "o", OWNER)),
    plan_of(("key", "b", LIMITS), ("owner", "o", OWNER)),
    plan_of(("key", "c", Limits(requests_per_minute=3)), ("model", "m", Limits(input_tokens_per_minute=120))),
]


@pytest.fixture(params=[in_memory, in_redis], ids=["memory", "redis"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with request.param(request) as made:
        yield made


@dataclass
class Taken:
    """A lease, when it was made and what it has reserved or used."""

    lease: Lease
    at_ms: int
    cost: Cost
    is_over: bool = False


@dataclass
class Naive:
    """Every amount ever counted on one meter, with its time: slow, and plain to see that it is right."""

    capacity: int
    rate: int
    used: int = 0
    at_ms: int = 0
    changes: list[tuple[int, int]] = field(default_factory=list)

    def leak(self, now_ms: int) -> None:
        self.used = max(0, self.used - (now_ms - self.at_ms) * self.rate)
        self.at_ms = now_ms

    def add(self, now_ms: int, amount: int) -> None:
        self.leak(now_ms)
        self.used = max(0, self.used + amount)
        self.changes.append((now_ms, amount))

    def check_intervals(self, extra: int) -> None:
        """In no interval that ends with a reservation more was taken, net, than burst + rate x time (+ what was used over)."""
        for first in range(len(self.changes)):
            net = 0
            for at_ms, amount in self.changes[first:]:
                net += amount
                if amount > 0:
                    assert net <= self.capacity + self.rate * (at_ms - self.changes[first][0]) + extra


def machine(backend: Backend) -> type[RuleBasedStateMachine]:
    """Requests that come, end, never end; time that goes; against a naive count of each meter."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.clock = Clock()
            self.store = backend.store(self.clock)
            self.taken: list[Taken] = []
            self.naive: dict[tuple[str, str, Measure], Naive] = {
                (meter.scope, meter.name, meter.measure): Naive(meter.capacity, meter.rate, at_ms=self.clock.now_ms)
                for plan in PLANS
                for meter in plan.meters
                if meter.rate
            }
            self.spent: dict[tuple[str, str, Measure, int], int] = {}
            self.over = 0

        @rule(
            plan=st.sampled_from(PLANS),
            tokens=st.tuples(st.integers(0, 50), st.integers(0, 35)),
            microusd=st.integers(0, 300),
        )
        def ask(self, plan: Plan, tokens: tuple[int, int], microusd: int) -> None:
            cost = Cost(1, *tokens, microusd)
            fits = all(self.left(meter) >= meter.amount(cost) or not meter.amount(cost) for meter in plan.meters)
            verdict = backend.run(self.store.reserve(plan, cost, LEASE_MS))
            assert (verdict.lease is not None) == fits
            if verdict.lease is None:
                assert plan.short(cost, verdict.used)
                for meter, reserved in zip(plan.meters, verdict.reserved, strict=True):
                    assert self.reserved(meter, expired=False) <= reserved <= self.reserved(meter, expired=True)
            else:
                self.taken.append(Taken(verdict.lease, self.clock.now_ms, cost))
                self.count(plan, cost, self.clock.now_ms)
            assert list(verdict.used) == [self.held(meter) for meter in plan.meters]

        @rule(which=st.integers(0, 10**6), share=st.floats(0, 1.2))
        def settle(self, which: int, share: float) -> None:
            if not self.taken:
                return
            taken = self.taken[which % len(self.taken)]
            used = Cost(1, *(round(share * each) for each in taken.cost[1:]))
            taken.lease.settle(used)
            backend.run(backend.settled(self.store))
            if taken.is_over or taken.lease.expires_ms <= self.clock.now_ms:
                taken.is_over = True  # a second time, or too late: what was reserved stays
                return
            taken.is_over = True
            more = Cost(*(now - before for now, before in zip(used, taken.cost, strict=True)))
            self.over += UNIT * max(0, *more)
            self.count(taken.lease.plan, more, taken.at_ms)

        @rule(ms=st.one_of(st.integers(0, 3_000), st.integers(0, 120_000)))
        def wait(self, ms: int) -> None:
            self.clock.now_ms += ms

        @invariant()
        def no_interval_has_more_than_its_limit(self) -> None:
            for naive in self.naive.values():
                naive.check_intervals(self.over)

        # The naive count.

        def count(self, plan: Plan, cost: Cost, at_ms: int) -> None:
            for meter in plan.meters:
                if meter.rate:
                    self.naive[meter.scope, meter.name, meter.measure].add(self.clock.now_ms, meter.amount(cost))
                elif meter.measure.is_budget:
                    key = (meter.scope, meter.name, meter.measure, self.window(meter.measure, at_ms))
                    self.spent[key] = self.spent.get(key, 0) + cost.microusd

        def window(self, measure: Measure, at_ms: int) -> int:
            day = day_of(at_ms // 1000)
            return month_of(day) if measure is Measure.MONTH else day

        def held(self, meter: Any) -> int:
            if meter.rate:
                naive = self.naive[meter.scope, meter.name, meter.measure]
                naive.leak(self.clock.now_ms)
                return naive.used
            if meter.measure is Measure.CONCURRENCY:
                return sum(
                    not each.is_over and each.lease.expires_ms > self.clock.now_ms
                    for each in self.taken
                    if any((own.scope, own.name) == (meter.scope, meter.name) for own in each.lease.plan.meters)
                )
            return self.spent.get(
                (meter.scope, meter.name, meter.measure, self.window(meter.measure, self.clock.now_ms)), 0
            )

        def reserved(self, meter: Any, *, expired: bool) -> int:
            """What leases of the window of now have reserved of a budget and not settled."""
            if not meter.measure.is_budget:
                return 0
            now_ms = self.clock.now_ms
            window = self.window(meter.measure, now_ms)
            return sum(
                each.cost.microusd
                for each in self.taken
                if not each.is_over
                and (expired or each.lease.expires_ms > now_ms)
                and self.window(meter.measure, each.at_ms) == window
                and any((own.scope, own.name) == (meter.scope, meter.name) for own in each.lease.plan.meters)
            )

        def left(self, meter: Any) -> int:
            return int(meter.capacity) - self.held(meter)

    return Machine


def test_every_store_counts_as_the_naive_one_does_and_never_over_a_limit(backend: Backend) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine(backend),
        settings=settings(
            max_examples=backend.examples, stateful_step_count=30, deadline=None, database=None, derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "cost", "admitted"),
    [
        (Limits(requests_per_minute=100), Cost(1, 10, 10, 10), 100),
        (Limits(input_tokens_per_minute=995), Cost(1, 10, 10, 10), 99),
        (Limits(output_tokens_per_minute=1000, burst_s=30), Cost(1, 10, 10, 10), 50),
        (Limits(concurrency=37), Cost(1, 10, 10, 10), 37),
        (Limits(microusd_per_day=1009), Cost(1, 10, 10, 10), 100),
        (Limits(microusd_per_month=1010), Cost(1, 10, 10, 10), 101),
        (Limits(requests_per_minute=500, concurrency=70, microusd_per_day=600), Cost(1, 10, 10, 10), 60),
    ],
)
def test_a_thousand_at_once_are_admitted_to_the_limit_and_not_one_more(
    backend: Backend, limits: Limits, cost: Cost, admitted: int
) -> None:
    clock = Clock()
    store, plan = backend.store(clock), plan_of(("key", "a", limits), ("owner", "o", Limits(requests_per_minute=900)))

    async def story() -> list[Lease]:
        verdicts = await asyncio.gather(*(store.reserve(plan, cost, LEASE_MS) for _ in range(1000)))
        return [each.lease for each in verdicts if each.lease is not None]

    assert len(backend.run(story())) == admitted


def test_what_is_settled_is_what_was_used_whoever_asks_next(backend: Backend) -> None:
    clock = Clock()
    store, plan = backend.store(clock), plan_of(("key", "a", LIMITS))

    async def story() -> None:
        first = (await store.reserve(plan, Cost(1, 40, 30, 400), LEASE_MS)).lease
        assert first is not None
        assert (await store.reserve(plan, Cost(1, 10, 0, 101), LEASE_MS)).lease is None
        first.settle(Cost(1, 20, 5, 123))
        await backend.settled(store)
        verdict = await store.reserve(plan, Cost(1, 25, 25, 377), LEASE_MS)
        assert verdict.lease is not None
        assert list(verdict.used) == [2 * UNIT, 45 * UNIT, 30 * UNIT, 1, 500, 500]

    backend.run(story())


def test_a_budget_says_how_much_of_it_is_held_and_not_spent(backend: Backend) -> None:
    """A client that is told to come back tomorrow gives up, though the money is free again in a second."""
    clock = Clock()
    budgets = Limits(microusd_per_day=10, microusd_per_month=100)
    store, plan = backend.store(clock), plan_of(("key", "a", budgets), ("owner", "o", Limits(requests_per_minute=99)))

    async def story() -> None:
        first, second = [(await store.reserve(plan, Cost(1, 0, 0, 4), LEASE_MS)).lease for _ in range(2)]
        assert first is not None
        assert second is not None
        refused = await store.reserve(plan, Cost(1, 0, 0, 4), LEASE_MS)
        assert (refused.lease, list(refused.reserved)) == (None, [8, 8, 0])
        first.settle(Cost(1, 0, 0, 3))
        await backend.settled(store)
        refused = await store.reserve(plan, Cost(1, 0, 0, 4), LEASE_MS)
        assert (list(refused.used)[:2], list(refused.reserved)) == ([7, 7], [4, 4, 0])
        second.settle(Cost(1, 0, 0, 4))
        await backend.settled(store)
        refused = await store.reserve(plan, Cost(1, 0, 0, 4), LEASE_MS)
        assert (list(refused.used)[:2], list(refused.reserved)) == ([7, 7], [0, 0, 0])

    backend.run(story())


def test_a_lease_that_nobody_settles_frees_its_place_and_keeps_the_rest(backend: Backend) -> None:
    clock = Clock()
    store, plan = backend.store(clock), plan_of(("key", "a", Limits(concurrency=1, microusd_per_day=10)))

    async def story() -> None:
        lost = (await store.reserve(plan, Cost(1, 0, 0, 4), LEASE_MS)).lease
        clock.now_ms += LEASE_MS - 1
        assert (await store.reserve(plan, Cost(1, 0, 0, 4), LEASE_MS)).lease is None
        clock.now_ms += 1
        assert (await store.reserve(plan, Cost(1, 0, 0, 4), LEASE_MS)).lease is not None
        assert lost is not None
        lost.settle(Cost(1, 0, 0, 0))
        await backend.settled(store)
        verdict = await store.reserve(plan, Cost(1, 0, 0, 3), LEASE_MS)
        assert (verdict.lease, list(verdict.used)) == (None, [1, 8])

    backend.run(story())


def test_a_budget_begins_anew_at_midnight_of_utc_and_a_request_belongs_to_the_day_it_came(backend: Backend) -> None:
    clock = Clock()
    store = backend.store(clock)
    plan = plan_of(("key", "a", Limits(microusd_per_day=10, microusd_per_month=10)))

    async def story() -> None:
        lease = (await store.reserve(plan, Cost(1, 0, 0, 10), LEASE_MS)).lease
        clock.now_ms += 99_999
        assert (await store.reserve(plan, Cost(1, 0, 0, 1), LEASE_MS)).lease is None
        late = (await store.reserve(plan, Cost(1, 0, 0, 0), 2 * LEASE_MS)).lease
        clock.now_ms += 1  # 2026-03-01
        verdict = await store.reserve(plan, Cost(1, 0, 0, 9), LEASE_MS)
        assert (verdict.lease is not None, list(verdict.used)) == (True, [9, 9])
        assert lease is not None
        assert late is not None
        late.settle(Cost(1, 0, 0, 5))  # of yesterday
        await backend.settled(store)
        assert list((await store.reserve(plan, Cost(1, 0, 0, 1), LEASE_MS)).used) == [10, 10]

    backend.run(story())


def test_a_request_that_takes_nothing_of_what_is_used_up_is_admitted(backend: Backend) -> None:
    clock = Clock()
    store, plan = backend.store(clock), plan_of(("key", "a", Limits(microusd_per_day=10, output_tokens_per_minute=1)))

    async def story() -> None:
        lease = (await store.reserve(plan, Cost(1, 0, 1, 10), LEASE_MS)).lease
        assert lease is not None
        lease.settle(Cost(1, 0, 50, 20))
        await backend.settled(store)
        assert (await store.reserve(plan, Cost(1, 7, 0, 0), LEASE_MS)).lease is not None
        verdict = await store.reserve(plan, Cost(1, 7, 1, 0), LEASE_MS)
        assert (verdict.lease, list(verdict.used)) == (None, [50 * UNIT, 20])

    backend.run(story())


def test_waiting_as_long_as_told_is_enough_and_a_millisecond_less_is_not(backend: Backend) -> None:
    clock = Clock()
    store, plan = backend.store(clock), plan_of(("key", "a", Limits(output_tokens_per_minute=7, burst_s=30)))

    async def story() -> None:
        cost = Cost(1, 0, 3, 0)
        assert (await store.reserve(plan, cost, LEASE_MS)).lease is not None
        verdict = await store.reserve(plan, cost, LEASE_MS)
        (meter, used), *_ = plan.short(cost, verdict.used)
        wait_ms = meter.wait_ms(used, meter.amount(cost))
        assert wait_ms is not None
        clock.now_ms += wait_ms - 1
        assert (await store.reserve(plan, cost, LEASE_MS)).lease is None
        clock.now_ms += 1
        assert (await store.reserve(plan, cost, LEASE_MS)).lease is not None

    backend.run(story())
