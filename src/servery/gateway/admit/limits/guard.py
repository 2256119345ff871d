"""What is done while the store of limits does not answer, as the configuration says; and that everybody learns of it."""

import logging
from collections.abc import Callable
from typing import Protocol

from servery.gateway.admit.limits.meter import Cost, Lease, LimitStore, Plan, Verdict
from servery.gateway.admit.limits.shared import StoreDown
from servery.wire.errors import ApiError

log = logging.getLogger(__name__)

# A store that is away is asked again so often, by one request: nobody else waits for its deadline.
_ASK_AGAIN_S = 1.0


class StoreFigures(Protocol):
    """Who counts how the store is."""

    def tell_store(self, *, is_up: bool) -> None:
        """It answered, or did not."""


class GuardedLimits:
    """A `LimitStore` that is `shared`, or without it `local`; where that is None, requests are refused meanwhile."""

    def __init__(
        self,
        shared: LimitStore,
        local: LimitStore | None,
        clock: Callable[[], float],
        figures: StoreFigures | None = None,
    ) -> None:
        """`clock` is monotonic."""
        self._shared = shared
        self._local = local
        self._clock = clock
        self._figures = figures
        self._ask_at_s: float | None = None  # when to ask again; None while it answers

    async def reserve(self, plan: Plan, cost: Cost, lease_ms: int) -> Verdict:
        """Reserve where that can be done now. Raises `ApiError` (503) when it cannot, and must not be done alone."""
        if self._ask_at_s is not None:
            now = self._clock()
            if now < self._ask_at_s:
                return await self._alone(plan, cost, lease_ms)
            self._ask_at_s = now + _ASK_AGAIN_S
        try:
            verdict = await self._shared.reserve(plan, cost, lease_ms)
        except StoreDown as failure:
            self._is_down(failure)
            return await self._alone(plan, cost, lease_ms)
        self._is_up()
        return verdict

    def settle(self, lease: Lease, used: Cost) -> None:
        """Where it was reserved."""
        lease.keeper.settle(lease, used)

    async def close(self) -> None:
        """Let go of both."""
        await self._shared.close()
        if self._local is not None:
            await self._local.close()

    async def _alone(self, plan: Plan, cost: Cost, lease_ms: int) -> Verdict:
        if self._local is None:
            message = "The server cannot count requests against limits now, so it refuses those that have any."
            raise ApiError(503, message, kind="server_error", code="limits_unavailable", retry_after_s=_ASK_AGAIN_S)
        return (await self._local.reserve(plan, cost, lease_ms))._replace(is_local=True)

    def _is_down(self, failure: StoreDown) -> None:
        if self._ask_at_s is None:
            meanwhile = "refused" if self._local is None else "counted by this process alone"
            log.error("the store of limits does not answer (%s): requests with limits are %s", failure, meanwhile)
        self._ask_at_s = self._clock() + _ASK_AGAIN_S
        if self._figures is not None:
            self._figures.tell_store(is_up=False)

    def _is_up(self) -> None:
        if self._ask_at_s is None:
            return
        self._ask_at_s = None
        log.warning("the store of limits answers again")
        if self._figures is not None:
            self._figures.tell_store(is_up=True)
