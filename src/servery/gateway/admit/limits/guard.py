"""What is done while the store of limits does not answer, as the configuration says; and that everybody learns of it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from servery.gateway.admit.limits.meter import Cost, Lease, LimitStore, Plan, Verdict
from servery.gateway.admit.limits.shared import StoreDown
from servery.wire.errors import ApiError

log = logging.getLogger(__name__)

# A store that is away is asked again so often, in the background: no request waits for its deadline.
_ASK_AGAIN_S = 1.0
# A reservation of nothing, which is done as any other.
_NOTHING, _NO_COST, _SHORTEST_LEASE_MS = Plan(()), Cost(), 1


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
        figures: StoreFigures | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`pause` waits for so many seconds."""
        self._shared = shared
        self._local = local
        self._figures = figures
        self._pause = pause
        self._asking: asyncio.Task[None] | None = None  # who asks it again; None while it answers

    async def reserve(self, plan: Plan, cost: Cost, lease_ms: int) -> Verdict:
        """Reserve where that can be done now. Raises `ApiError` (503) when it cannot, and must not be done alone."""
        if self._asking is not None:
            return await self._alone(plan, cost, lease_ms)
        try:
            return await self._shared.reserve(plan, cost, lease_ms)
        except StoreDown as failure:
            self._is_down(failure)
            return await self._alone(plan, cost, lease_ms)

    def settle(self, lease: Lease, used: Cost) -> None:
        """Where it was reserved."""
        lease.keeper.settle(lease, used)

    async def close(self) -> None:
        """Let go of both."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._shared.close()
        if self._local is not None:
            await self._local.close()

    async def _alone(self, plan: Plan, cost: Cost, lease_ms: int) -> Verdict:
        if self._local is None:
            message = "The server cannot count requests against limits now, so it refuses those that have any."
            raise ApiError(503, message, kind="server_error", code="limits_unavailable", retry_after_s=_ASK_AGAIN_S)
        return msgspec.structs.replace(await self._local.reserve(plan, cost, lease_ms), is_local=True)

    def _is_down(self, failure: StoreDown) -> None:
        if self._asking is not None:
            return
        meanwhile = "refused" if self._local is None else "counted by this process alone"
        log.error("the store of limits does not answer (%s): requests with limits are %s", failure, meanwhile)
        self._tell(is_up=False)
        self._asking = asyncio.create_task(self._ask_again(), name="limits again")

    async def _ask_again(self) -> None:
        """Until it answers, whether or not there are requests: the first one after that is counted there."""
        while True:
            await self._pause(_ASK_AGAIN_S)
            try:
                await self._shared.reserve(_NOTHING, _NO_COST, _SHORTEST_LEASE_MS)
            except StoreDown:
                continue
            self._asking = None
            log.warning("the store of limits answers again")
            self._tell(is_up=True)
            return

    def _tell(self, *, is_up: bool) -> None:
        if self._figures is not None:
            self._figures.tell_store(is_up=is_up)
