"""A server's dashboard: who may see it, what it shows, how often somebody may try to log in."""

import time
from collections.abc import Callable

from servery.gateway.admit.limits.meter import LimitStore
from servery.server.dashboard.access import Access
from servery.server.dashboard.attempts import Attempts
from servery.server.dashboard.feed import Feed
from servery.server.dashboard.past import Past
from servery.server.dashboard.peers import Own, Peers
from servery.server.dashboard.session import Sessions
from servery.server.dashboard.spending import Spending
from servery.server.service import Service
from servery.server.workers import Post
from servery.telemetry.ledger.writer import Ledger
from servery.telemetry.settled import SettledRows


class Dashboard:
    """Its parts; `port` is the server's, `post` the process's place among several. `wall` gives Unix time."""

    def __init__(
        self,
        service: Service,
        settled: SettledRows,
        limits: LimitStore,
        *,
        port: int,
        ledger: Ledger | None = None,
        post: Post | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        options = service.options
        folder = None if post is None else post.folder
        sessions = Sessions(service.admin.admins, service.viewers, port=port, folder=folder, wall=wall)
        self.access = Access(service.admin, service.viewers, sessions, Attempts(service.clock))
        self.past = Past(options.ledger, settled, wall)
        spending = Spending(service.key_watch, options.ledger, limits, wall)
        peers = None if post is None else Peers(post.folder, post.number, post.count, self._own)
        self.feed = Feed(
            service,
            settled,
            spending,
            ledger=lambda: None if ledger is None else ledger.figures,
            peers=peers,
            wall=wall,
        )

    def _own(self, since: int) -> Own:
        return self.feed.own(since)
