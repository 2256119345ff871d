"""What the dashboard shows live: put together once a second, for all who look; while nobody does, nothing is done."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec

from servery import __version__
from servery.server.dashboard.figures import (
    POINT,
    budget_figures,
    deployment_figures,
    engine_figures,
    joined_deployments,
    model_figures,
)
from servery.server.dashboard.live import LENGTH, RECENT, STEP_S, LiveWindow
from servery.server.dashboard.peers import Own, Peers
from servery.server.dashboard.spending import Spending
from servery.server.key_store import KeyStoreError
from servery.server.service import Service
from servery.telemetry.history import History
from servery.telemetry.ledger.database import open_database
from servery.telemetry.ledger.errors import DatabaseFailure, LedgerError
from servery.telemetry.ledger.figures import LedgerFigures
from servery.telemetry.ledger.row import LedgerRow
from servery.telemetry.settled import SettledRows
from servery.upstream.on_demand import OnDemandUpstream
from servery.wire.errors import ApiError

log = logging.getLogger(__name__)

TICK_S = 1.0
# How long the view is kept up after the last one has gone: a page that is loaded again finds it as it was.
LINGER_S = 5.0
MOST_VIEWERS = 64
_SPENDING_S = 10.0
_SPENDING_WAIT_S = 2.0
_MOST_RECALLED = 20_000


class Feed:
    """`settled` are the exchanges of this process, `peers` the other workers, `ledger` tells how the ledger is.

    `clock` is the gateway's, `wall` gives Unix time.
    """

    def __init__(
        self,
        service: Service,
        settled: SettledRows,
        spending: Spending,
        *,
        ledger: Callable[[], LedgerFigures | None] = lambda: None,
        peers: Peers | None = None,
        wall: Callable[[], float] = time.time,
        tick_s: float = TICK_S,
    ) -> None:
        self.peers = peers
        self._service = service
        self._settled = settled
        self._spending = spending
        self._ledger = ledger
        self._wall = wall
        self._tick_s = tick_s
        self._began_s = wall()
        self._viewers = 0
        self._task: asyncio.Task[None] | None = None
        self._beat: asyncio.Future[None] | None = None
        self._spending_task: asyncio.Task[None] | None = None
        self._number = 0
        self._event = b""
        self._reset()

    def _reset(self) -> None:
        self._live: LiveWindow | None = None
        self._counts: dict[int, int] = {}
        self._answering = 1
        self._now: dict[str, Any] = {}
        self._keys: list[dict[str, Any]] = []
        self._keys_due_s = 0.0
        self._slo: dict[str, Any] = {}

    def own(self, since: int) -> Own:
        """This process's part, for the worker that asks."""
        rows, count = self._settled.since(since)
        generated: dict[str, float] = {}
        for (model, *_), value in self._service.metrics.generated.read().items():
            generated[model] = generated.get(model, 0.0) + value
        return Own(
            rows=rows,
            count=count,
            generated=generated,
            deployments=deployment_figures(self._service.gateway.fleet, self._service.clock()),
            in_flight=self._service.lifecycle.in_flight,
        )

    async def view(self) -> AsyncGenerator[bytes, None]:
        """Events of a stream: everything, then every second what is new, until the server stops.

        Raises `ApiError` (503) when too many look.
        """
        if self._viewers >= MOST_VIEWERS:
            message = f"{self._viewers} look at the dashboard already, as many as may; close one."
            raise ApiError(503, message, kind="server_error", code="too_many_viewers")
        self._viewers += 1
        try:
            number = await self._begun()
            yield _event("snapshot", self._whole())
            while not self._service.lifecycle.is_draining:
                while self._number == number and self._beat is not None:
                    await asyncio.shield(self._beat)
                if self._beat is None:
                    return
                number = self._number
                yield self._event
        finally:
            self._viewers -= 1

    async def snapshot(self) -> bytes:
        """Everything, as JSON. Where nobody looked before it waits for what keys have spent, unless that takes long."""
        self._viewers += 1
        try:
            await self._begun()
            if not self._keys_due_s and self._spending_task is not None:
                await asyncio.wait({self._spending_task}, timeout=_SPENDING_WAIT_S)
            return self._whole()
        finally:
            self._viewers -= 1

    async def close(self) -> None:
        """Stop; who looks is told."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _begun(self) -> int:
        """Have the view kept up, and wait until there is one; the number of its last tick."""
        if self._beat is None:
            self._beat = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run(), name="dashboard")
            self._task.add_done_callback(_tell_end)
        while not self._now and self._beat is not None:
            await asyncio.shield(self._beat)
        if self._beat is None:
            raise ApiError(503, "The dashboard's view has failed; the failure was logged.", code="no_view")
        return self._number

    async def _run(self) -> None:
        left_s = LINGER_S
        try:
            while left_s > 0:
                began_s = self._service.clock()
                await self._tick()
                left_s = LINGER_S if self._viewers else left_s - self._tick_s
                await asyncio.sleep(max(0.0, self._tick_s - (self._service.clock() - began_s)))
        finally:
            last, self._beat = self._beat, None
            if last is not None:
                last.set_result(None)
            if self._spending_task is not None:
                self._spending_task.cancel()
            self._reset()

    def _tell(self) -> None:
        """Have who waits look again."""
        last, self._beat = self._beat, asyncio.get_running_loop().create_future()
        if last is not None:
            last.set_result(None)

    async def _tick(self) -> None:
        fleet, now_s = self._service.gateway.fleet, self._wall()
        parts = {-1: self.own(self._counts.get(-1, 0))}
        if self.peers is not None:
            parts |= await self.peers.ask(self._counts)
        if self._live is None:
            live, known = LiveWindow(fleet.models), await self._recalled(now_s)
        else:
            live, known = self._live, []
        live.turn(now_s, fleet.models)
        seen = {row.id for row in known}
        live.add(sorted([*known, *self._new(parts, seen)], key=lambda row: row.at_s + row.e2e_s))
        live.count(now_s, {number: part.generated for number, part in parts.items()})
        self._live, self._answering = live, len(parts)
        self._ask_spending(now_s)
        self._now = self._figures(parts, now_s)
        self._number += 1
        self._event = _event("tick", msgspec.json.encode({**self._now, **live.tick(), "keys": self._keys}))
        self._tell()

    def _new(self, parts: dict[int, Own], seen: set[str]) -> list[LedgerRow]:
        rows: list[LedgerRow] = []
        for number, part in parts.items():
            self._counts[number] = part.count
            rows += [row for row in part.rows if row.id not in seen]
        return rows

    async def _recalled(self, now_s: float) -> list[LedgerRow]:
        """What stands in the ledger of the window's time, and of what was before it the newest: of earlier runs, too."""
        place = self._service.options.ledger
        if place is None:
            return []

        def read() -> list[LedgerRow]:
            with contextlib.closing(open_database(place, is_read_only=True)) as database:
                rows = History(database, now_s - STEP_S * LENGTH).newest(_MOST_RECALLED)
                return rows if len(rows) >= RECENT else History(database, 0.0).newest(RECENT)

        try:
            return await asyncio.to_thread(read)
        except (LedgerError, DatabaseFailure) as error:
            log.warning("the dashboard begins without what the ledger has: %s", error)
            return []

    def _ask_spending(self, now_s: float) -> None:
        """Find out what keys have spent, beside the ticks: a large ledger takes its time."""
        is_asked = self._spending_task is not None and not self._spending_task.done()
        if not is_asked and now_s >= self._keys_due_s:
            self._spending_task = asyncio.create_task(self._read_spending(), name="dashboard's keys")

    async def _read_spending(self) -> None:
        service, began_s = self._service, self._wall()
        owners = service.gateway.fleet.config.owners
        try:
            keys = await asyncio.to_thread(self._spending.read, service.keys.callers, owners)
            self._keys = [{**key, "is_admin": service.admin.admins.of_id(key["id"]) is not None} for key in keys]
        except (LedgerError, DatabaseFailure, KeyStoreError) as error:
            log.warning("the dashboard does not know what keys have spent: %s", error)
        await service.slo.refresh()
        # Without a ledger each worker knows of itself alone.
        is_whole = self.peers is None or service.slo.source == "ledger"
        self._slo = {each.model: budget_figures(each) for each in service.slo.page().models} if is_whole else {}
        self._keys_due_s = self._wall() + max(_SPENDING_S, 20 * (self._wall() - began_s))

    def _figures(self, parts: dict[int, Own], now_s: float) -> dict[str, Any]:
        service = self._service
        fleet, ledger = service.gateway.fleet, self._ledger()
        return {
            "number": self._number + 1,
            "at_s": now_s,
            "workers": {"answering": self._answering, "of": 1 if self.peers is None else self.peers.count},
            "in_flight": sum(part.in_flight for part in parts.values()),
            "is_draining": service.lifecycle.is_draining,
            "generation": fleet.config.generation,
            "ledger": None if ledger is None else {
                "waiting": ledger.waiting, "lost": ledger.lost, "failures": ledger.failures,
            },
            "models": model_figures(fleet),
            "budgets": self._slo,
            "deployments": joined_deployments([part.deployments for part in parts.values()]),
            "engines": {
                each.name: engine_figures(
                    each.upstream.info(), each.upstream.stats(), each.upstream.look(), service.metrics.utilization
                )
                for each in fleet.deployments.values()
                if isinstance(each.upstream, OnDemandUpstream)
            },
        }  # fmt: skip

    def _whole(self) -> bytes:
        live: dict[str, Any] = {} if self._live is None else self._live.whole()
        return msgspec.json.encode(
            {
                "object": "dashboard",
                "version": __version__,
                "began_s": self._began_s,
                "point": POINT,
                "step_s": STEP_S,
                "length": LENGTH,
                **self._now,
                **live,
                "budgets": self._slo,
                "keys": self._keys,
            }
        )


def _event(name: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


def _tell_end(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the dashboard's view has ended; it begins again with the next who looks", exc_info=error)
