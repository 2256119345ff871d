"""A configuration taken up while the server runs: because its file changed, by SIGHUP, or by an admin's call.

It is validated whole first, and swapped in one step; a bad one changes nothing. Exchanges under way keep theirs.
"""

import asyncio
import logging
import random
import time

from servery.config.errors import ConfigError
from servery.config.live import LiveConfig, Reload
from servery.gateway.fleet import Fleet
from servery.server.option_error import OptionError
from servery.server.places import Places
from servery.server.service import Service

log = logging.getLogger(__name__)

_LOOK_S = 1.0


class Reloader:
    """Takes up what `live` reads, for `service`, whose deployments `places` has."""

    def __init__(self, live: LiveConfig, service: Service, places: Places) -> None:
        self._live = live
        self._service = service
        self._places = places
        live.on_change(self._take_up)

    def reload(self) -> Reload:
        """Read the file again; raises `ConfigError`, `OptionError` when it cannot be used."""
        done = self._live.reload()
        log.info(
            "configuration %d is in force: models %s; deployments %s",
            done.config.generation,
            done.models,
            done.deployments,
        )
        return done

    def try_to_reload(self) -> None:
        """Read the file again; what is wrong with it is logged, and nothing changes."""
        try:
            self.reload()
        except (ConfigError, OptionError) as error:
            log.error("the configuration stays as it was: %s", error)

    async def watch(self) -> None:
        """Read the file again whenever it changes, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if await asyncio.to_thread(self._live.is_stale):
                self.try_to_reload()

    def _take_up(self, change: Reload) -> None:
        gateway = self._service.gateway
        before = gateway.fleet
        fleet = Fleet.of(change.config, self._places.upstream, time.monotonic, random.random, before)
        self._places.follow(fleet, before)
        gateway.swap(fleet)
