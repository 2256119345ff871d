"""Why deployments failed, for whoever runs them: a line in the log for each attempt, and for many alike one with their number."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

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

    def tell(self, failure: UpstreamFailure, request_id: str, now: float, trace_id: str | None = None) -> None:
        """An attempt has failed; `now` is seconds of any clock that does not run backwards."""
        at, more = self._told.get(failure.name, (-QUIET_S, 0))
        if now - at < QUIET_S:
            self._told[failure.name] = at, more + 1
            return
        self._told[failure.name] = now, 0
        why = "".join(each if each.isprintable() else "?" for each in redacted(failure.logged))[:_SHOWN_CHARS]
        log.warning("%s", _Failed(self._deployment, failure.name, why, request_id, trace_id, more))


@dataclass(frozen=True, slots=True)
class _Failed:
    """One line: `more` like it were not told since the last."""

    deployment: str
    failure: str
    why: str
    request_id: str
    trace_id: str | None
    more: int

    def __str__(self) -> str:
        others = f" ({self.more} more like it since the last line)" if self.more else ""
        return f"attempt at {self.deployment} failed: {self.failure}: {self.why} request={self.request_id}{others}"

    def fields(self) -> Mapping[str, object]:
        return {
            "deployment": self.deployment,
            "failure": self.failure,
            "why": self.why,
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "more": self.more or None,
        }
