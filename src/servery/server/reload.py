"""A configuration taken up while the server runs: because its file changed, by SIGHUP, or by an admin's call.

It is validated whole first, and swapped in one step; a bad one changes nothing. Exchanges under way keep theirs.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from servery.config.errors import ConfigError
from servery.config.live import LiveConfig, Reload
from servery.config.secret import Secret
from servery.config.types import Config
from servery.gateway.fleet import Fleet
from servery.server.audited import LOCAL
from servery.server.configured import configured_options
from servery.server.option_error import OptionError
from servery.server.places import Places
from servery.server.service import Service
from servery.telemetry.ledger.audit import Act

log = logging.getLogger(__name__)

_LOOK_S = 1.0
# What of the options follows the file; the rest stays as the server was started.
_FOLLOWING = ("drain_timeout_s", "keep_alive_s", "max_body_bytes", "request_timeout_s")


class Reloader:
    """Takes up what `live` reads, for `service`, whose deployments `places` has."""

    def __init__(
        self, live: LiveConfig, service: Service, places: Places, share: Callable[[Config], Config] | None = None
    ) -> None:
        """`share` gives this process's part of what a configuration allows; without it that is all."""
        self._live = live
        self._share = share or (lambda config: config)
        self._service = service
        self._places = places
        first, options = live.current, service.options
        self._keys_beside = {
            name: _beside(getattr(options, name), getattr(first, name))
            for name in ("api_keys", "admin_keys", "metrics_keys", "viewer_keys")
        }
        self._turn = asyncio.Lock()
        self._heard: set[asyncio.Task[None]] = set()
        live.on_change(self._take_up)

    async def reload(self) -> Reload:
        """Read the file again, beside the requests; raises `ConfigError`, `OptionError` when it cannot be used.

        Of two reloads at a time the later one reads the file when the earlier one is in force.
        """
        async with self._turn:
            done = self._live.take(await asyncio.to_thread(self._live.read))
        log.info(
            "configuration %d is in force: models %s; deployments %s",
            done.config.generation,
            done.models,
            done.deployments,
        )
        return done

    async def try_to_reload(self, cause: str) -> None:
        """Read the file again, because it changed or a signal came; what is wrong with it is logged, and nothing changes."""
        outcome = "done"
        try:
            await self.reload()
        except (ConfigError, OptionError) as error:
            log.error("the configuration stays as it was: %s", error)
            outcome = "refused"
        act = Act(who=LOCAL, action="reload", subject=str(self._live.current.source), source=cause, outcome=outcome)
        await asyncio.to_thread(self._service.audit.record, act)

    def hear(self) -> None:
        """Read the file again because of a signal, without waiting for that."""
        task = asyncio.create_task(self.try_to_reload("SIGHUP"))
        self._heard.add(task)
        task.add_done_callback(self._heard.discard)

    async def watch(self) -> None:
        """Read the file again whenever it changes, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if await asyncio.to_thread(self._live.is_stale):
                await self.try_to_reload("file")

    def _take_up(self, change: Reload) -> None:
        service, gateway = self._service, self._service.gateway
        before = gateway.fleet
        options = configured_options(change.config, **self._keys_beside, host=service.options.host)
        taken_up = replace(service.options, **{name: getattr(options, name) for name in _FOLLOWING})
        fleet = Fleet.of(self._share(change.config), self._places.upstream, time.monotonic, random.random, before)
        options.key_ring()  # a key that cannot be read is told before anything is changed
        # Nothing was changed so far, and nothing from here on can fail.
        self._places.follow(fleet, before)
        gateway.swap(fleet)
        service.options = taken_up
        service.keys.renew(options.accepted_keys, change.config.keys.values())
        service.admin.renew(options.admin_keys)
        service.metrics_door.renew(options.metrics_keys, options.admin_keys)
        service.viewers.renew(options.viewer_keys)


def _beside(given: Sequence[str], said: Sequence[Secret]) -> tuple[str, ...]:
    """The keys that stood beside the file, and stay whatever it says."""
    in_file = {secret.reveal() for secret in said}
    return tuple(key for key in given if key not in in_file)
