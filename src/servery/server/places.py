"""Who speaks to the deployments of a server: engines of this process, and what runs elsewhere. They come and go with configurations."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence

from servery.config.types import DeploymentConfig, Kind
from servery.engine.errors import EngineError
from servery.gateway.dispatch.deployment import Deployment
from servery.gateway.fleet import Fleet
from servery.http.client import HttpClient
from servery.http.errors import HttpError
from servery.server.configured_engine import engine_of
from servery.server.house import House
from servery.server.option_error import OptionError
from servery.upstream.kinds import remote_upstream
from servery.upstream.on_demand import OnDemandUpstream
from servery.upstream.upstream import Upstream

log = logging.getLogger(__name__)


class Places:
    """Makes upstreams; `house` has the engines of this process. Everything happens on one event loop."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._http: HttpClient | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._retiring: list[Upstream] = []

    def upstream(self, config: DeploymentConfig) -> Upstream:
        """What speaks to a deployment; not started, and nobody knows of it. Raises `OptionError` if nothing can."""
        if config.kind is Kind.EMBEDDED:
            return self._house.made(engine_of(config))
        try:
            return remote_upstream(config, self._client)
        except (HttpError, ValueError) as error:
            raise OptionError(f"deployment {config.name}: {error}") from error

    async def start(self, fleet: Fleet) -> None:
        """Begin with what runs elsewhere; engines of this process are loaded by who waits for them."""
        for deployment in fleet.deployments.values():
            if not deployment.is_own:
                await deployment.upstream.start()

    def follow(self, fleet: Fleet, before: Fleet) -> None:
        """Start what is new in a fleet, and stop what it has no more, as soon as the last exchange there has ended."""
        known = {id(each.upstream) for each in before.deployments.values()}
        for deployment in fleet.deployments.values():
            if id(deployment.upstream) not in known:
                if isinstance(deployment.upstream, OnDemandUpstream):
                    self._house.settle(deployment.upstream)
                self._spawn(self._start(deployment))
        for deployment in fleet.dropped(before):
            self._spawn(self._retire(deployment))

    async def stop(self, upstreams: Sequence[Upstream]) -> None:
        """Let go of everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        retiring = [upstream for upstream in self._retiring if upstream not in upstreams]
        await asyncio.gather(*(upstream.stop() for upstream in (*upstreams, *retiring)))
        if self._http is not None:
            await self._http.aclose()

    def _client(self) -> HttpClient:
        if self._http is None:
            self._http = HttpClient()
        return self._http

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, deployment: Deployment) -> None:
        try:
            await deployment.upstream.start()
        except (EngineError, OSError) as error:  # the others go on, and this one is not ready
            log.error("deployment %s does not start: %s", deployment.name, error)

    async def _retire(self, deployment: Deployment) -> None:
        self._retiring.append(deployment.upstream)
        await deployment.slots.until_idle()
        log.info("deployment %s has nothing more to do and is stopped", deployment.name)
        await deployment.upstream.stop()
        self._retiring.remove(deployment.upstream)
        self._house.forget(deployment.name, deployment.upstream)
