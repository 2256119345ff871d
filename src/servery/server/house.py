"""The models of one server: each with a place in the memory that they share, all watched, and more to come."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from servery.engine.stats import EngineInfo
from servery.server.option_error import OptionError
from servery.server.options import ServedModel, ServeOptions
from servery.telemetry.metrics import Metrics
from servery.upstream.on_demand import OnDemandUpstream
from servery.upstream.residence import Residence
from servery.upstream.roster import Roster
from servery.upstream.upstream import Upstream

log = logging.getLogger(__name__)


class House:
    """`upstreams` and `residences` are by the name that clients ask for; `announce` is told of each model that was loaded."""

    def __init__(self, options: ServeOptions, metrics: Metrics, announce: Callable[[str, EngineInfo], None]) -> None:
        self._options = options
        self._metrics = metrics
        self._announce = announce
        self._roster = Roster(options.residence.memory_bytes, makes_room=options.residence.makes_room)
        self.upstreams: dict[str, OnDemandUpstream] = {}
        self.residences: dict[str, Residence] = {}
        for model in (*options.models, *options.found().values()):
            self.take_in(model)

    @property
    def at_start(self) -> Sequence[OnDemandUpstream]:
        """Those to be loaded before anything is asked for."""
        if self._options.residence.on_demand:
            return ()
        return [self.upstreams[model.name] for model in self._options.models]

    async def look_for(self, name: str) -> None:
        """Take in a model that has come into the folder of models since the start, if there is one of that name."""
        if name in self.upstreams:
            return
        try:
            found = await asyncio.to_thread(self._options.found)
        except OptionError as error:
            log.warning("no model was found: %s", error)
            return
        if name in found and name not in self.upstreams:
            self.take_in(found[name])

    def take_in(self, model: ServedModel) -> OnDemandUpstream:
        """Have an engine for a model; not loaded."""
        upstream = self.made(model)
        self.settle(upstream)
        return upstream

    def made(self, model: ServedModel) -> OnDemandUpstream:
        """An engine for a model, of which nothing here knows until it is to `settle`."""
        # A gateway without an engine of its own loads nothing of what engines need.
        from servery.server.announced import Announced

        embedded = Announced(model, self._announce)
        stay = self._options.residence.stay(model.name, model.engine.max_waiting_requests)
        return OnDemandUpstream(embedded, Residence(embedded, stay, self._roster))

    def settle(self, upstream: OnDemandUpstream) -> None:
        """Have an engine that was made. One of its name that was there before is its starter's to stop."""
        name, residence = upstream.name, upstream.residence
        self.upstreams[name], self.residences[name] = upstream, residence
        self._metrics.watch_engine(name, upstream.stats, upstream.info)
        self._metrics.watch_life(name, upstream.life)
        self._metrics.watch_adapters(name, upstream.adapter_uses)
        self._metrics.watch_residence(name, residence.figures)

    def forget(self, name: str, upstream: Upstream) -> None:
        """An engine that was stopped for good is no more of this house, unless another one has its name now."""
        if self.upstreams.get(name) is upstream:
            del self.upstreams[name], self.residences[name]
            self._metrics.forget_engine(name)
