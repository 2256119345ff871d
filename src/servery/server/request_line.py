"""A request that is over, in the log: sizes and times, never content."""

from collections.abc import Mapping
from dataclasses import dataclass

from servery.gateway.settle.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLine:
    """`route` is its path, or what was asked for where there is none; `error` the code of what its client was told."""

    method: str
    route: str
    status: int
    request_id: str
    took_ms: float
    record: Record | None = None
    trace_id: str | None = None
    error: str | None = None
    is_client_gone: bool = False

    def __str__(self) -> str:
        """For people."""
        details = [f"{self.took_ms:.0f} ms"] if self.record is None else [str(self.record), f"{self.took_ms:.0f} ms"]
        if self.error is not None:
            details.append(f"error {self.error}")
        if self.is_client_gone:
            details.append("the client had gone")
        if self.trace_id is not None:
            details.append(f"trace {self.trace_id}")
        return f"{self.method} {self.route} {self.status} {self.request_id} {', '.join(details)}"

    def fields(self) -> Mapping[str, object]:
        """For programs."""
        return {
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "took_ms": round(self.took_ms, 3),
            **({} if self.record is None else self.record.fields()),
            "error": self.error,
            "client_gone": self.is_client_gone or None,
        }
