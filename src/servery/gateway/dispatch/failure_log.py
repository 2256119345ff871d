"""Why deployments failed, for whoever runs them: a line in the log for each attempt, and for many alike one with their number."""

import logging

from servery.upstream.failure import UpstreamFailure
from servery.upstream.redaction import redacted

log = logging.getLogger(__name__)

QUIET_S = 10.0
_SHOWN_CHARS = 300


class FailureLog:
    """One deployment's. Of failures of one kind one line is written in `QUIET_S`; the next says how many were like it."""

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self._told: dict[str, tuple[float, int]] = {}  # by kind: when a line was written, and how many failed since

    def tell(self, failure: UpstreamFailure, request_id: str, now: float) -> None:
        """An attempt has failed; `now` is seconds of any clock that does not run backwards."""
        at, more = self._told.get(failure.name, (-QUIET_S, 0))
        if now - at < QUIET_S:
            self._told[failure.name] = at, more + 1
            return
        self._told[failure.name] = now, 0
        why = "".join(each if each.isprintable() else "?" for each in redacted(failure.logged))[:_SHOWN_CHARS]
        others = f" ({more} more like it since the last line)" if more else ""
        log.warning(
            "attempt at %s failed: %s: %s request=%s%s", self._deployment, failure.name, why, request_id, others
        )
