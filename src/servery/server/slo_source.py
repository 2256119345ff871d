"""Where a server looks up what became of its SLOs: in its ledger, or where there is none in what it counts itself."""

import time
from collections.abc import Mapping

from servery.config.types import LedgerConfig, Slo
from servery.gateway.gateway import Gateway
from servery.server.workers import Post
from servery.telemetry.judged_minutes import JudgedModels
from servery.telemetry.ledger.judged import LedgerCounts
from servery.telemetry.metrics import Metrics
from servery.telemetry.slo_watch import SloWatch


def slo_watch(ledger: LedgerConfig | None, gateway: Gateway, metrics: Metrics, post: Post | None) -> SloWatch:
    """What watches the SLOs of the gateway's models, and tells of them in the metrics.

    A ledger has the exchanges of all workers and of earlier runs: the first worker alone tells of them.
    """

    def objectives() -> Mapping[str, Slo]:
        models = gateway.fleet.models
        return {name: served.config.slo for name, served in models.items() if served.config.slo is not None}

    if ledger is None:
        judged = metrics.gateway.exchanges.judged = JudgedModels()
        watch = SloWatch(objectives, lambda: judged.counts(time.time()), "memory")
    else:
        is_told = post is None or post.number == 0
        watch = SloWatch(objectives, LedgerCounts(ledger, time.time).read, "ledger", is_told=is_told)
    metrics.watch_slo(watch)
    return watch
