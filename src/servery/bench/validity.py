"""Whether a run measured the server, or this client.

A client that sends late offers another load than it says; one that uses a whole core sees its own queue. Such figures
are shown, but the run is called invalid.
"""

from collections.abc import Mapping

from servery.bench.errors import OutOfConnections
from servery.bench.measured import Measured
from servery.bench.percentile import quantile
from servery.bench.slo import BenchSlo

LAG_S = 0.005
LAG_SHARE = 0.02  # of the limit on TTFT
BUSY_CLIENT = 0.7  # share of a core above which the client's own queueing may show in the latencies
_COSTLY_PER_TOKEN_S = 1e-4  # 10 % of a core at 1,000 tokens/s
# Below it what a run costs as a whole, and waking up for each token alone, weigh more than tokens do.
_TOKENS_PER_S_THAT_TELL = 250


def lag_p99_s(measured: Measured) -> float:
    """How late requests were sent, 99th percentile."""
    return quantile(sorted(sample.lag_s for sample in measured.samples), 0.99) if measured.samples else 0.0


def lag_limit_s(limits: Mapping[str, float]) -> float:
    """The most that `lag_p99_s` may be, by the limits of an SLO in seconds (none without one)."""
    return max(LAG_S, LAG_SHARE * limits.get("ttft", 0.0))


def faults(measured: Measured, slo: BenchSlo | None) -> list[str]:
    """Why the run is invalid; nothing if it is valid."""
    found = []
    lag, limit = lag_p99_s(measured), lag_limit_s(slo.limits if slo is not None else {})
    if measured.is_open and lag > limit:
        late = f"this client sent requests late: {1e3 * lag:.1f} ms at p99, above {1e3 * limit:.1f} ms"
        found.append(f"{late}; lower the rate, or give the client a core of its own")
    if unsent := sum(sample.error_kind == OutOfConnections.kind for sample in measured.samples):
        found.append(f"this client had no connection left for {unsent} requests; raise its limit (ulimit -n)")
    return found


def cost_notes(measured: Measured) -> list[str]:
    """Where the client was busy, or costs more than a tenth of a core at 1,000 tokens a second."""
    notes = []
    if measured.client_cpu_share > BUSY_CLIENT:
        notes.append(f"this client used {measured.client_cpu_share:.0%} of a core: latencies may be its own")
    tokens = sum(sample.output_tokens for sample in measured.samples)
    per_token = measured.client_cpu_share * measured.wall_s / tokens if tokens else 0.0
    if per_token > _COSTLY_PER_TOKEN_S and tokens >= _TOKENS_PER_S_THAT_TELL * measured.wall_s:
        notes.append(
            f"this client used {1e6 * per_token:.0f} us of CPU per token, more than 10 % of a core at 1,000 tokens/s"
        )
    return notes
