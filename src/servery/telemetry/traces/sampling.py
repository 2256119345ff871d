"""Which traces are recorded: a share of those that begin here, and of the others those that their caller records. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from servery.telemetry.traces.context import Parent

_ID_BITS = 64  # of a trace's id that the decision goes by, as in OpenTelemetry's TraceIdRatioBased


@dataclass(frozen=True, slots=True)
class Sampling:
    """Records `share` of the traces, 0 to 1; with `follows_parent` the caller's word counts where there is one."""

    share: float = 1.0
    follows_parent: bool = True

    def takes(self, trace_id: int, parent: Parent | None) -> bool:
        """The same for all spans of a trace, wherever it is decided by the same share."""
        if parent is not None and self.follows_parent:
            return parent.is_sampled
        return trace_id & ((1 << _ID_BITS) - 1) < round(self.share * (1 << _ID_BITS))


def sampling_of(environment: Mapping[str, str]) -> Sampling:
    """What OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG say; raises `ValueError` for what is no sampler or share."""
    name = environment.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    kind = name.removeprefix("parentbased_")
    shares = {"always_on": 1.0, "always_off": 0.0, "traceidratio": 1.0}
    if kind not in shares:
        raise ValueError(
            f"OTEL_TRACES_SAMPLER is {name!r}; choose one of {', '.join(shares)}, or parentbased_ and one."
        )
    given = environment.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    share = shares[kind]
    if kind == "traceidratio" and given:
        try:
            share = float(given)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise ValueError(f"OTEL_TRACES_SAMPLER_ARG is {given!r}; write a share from 0 to 1.")
    return Sampling(share, follows_parent=kind != name)
