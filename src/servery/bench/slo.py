"""What a user was promised, per request: limits on TTFT, TPOT, E2E and the longest gap, and the share that keeps them.

A request is good if it succeeded and kept every limit. Errors, timeouts and refusals are misses: a server that sheds
half of its load must not look better for it. An answer of one token has no TPOT and keeps any limit on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from servery.bench.sample import Sample
from servery.config.units import parse_duration, parse_share

CLAUSES = ("ttft", "tpot", "e2e", "stall")
DEFAULT_ATTAINMENT = 0.99


@dataclass(frozen=True, slots=True)
class BenchSlo:
    """`limits` in seconds by clause; `attainment` is the share of requests that must keep all of them."""

    limits: Mapping[str, float]
    attainment: float = DEFAULT_ATTAINMENT
    name: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str, attainment: float | None = None) -> "BenchSlo":
        """Read `ttft:200ms,tpot:50ms` or the name of a preset. Raises `ValueError` with what may be written."""
        known = PRESETS.get(text)
        limits = known.limits if known else _limits(text)
        share = attainment if attainment is not None else known.attainment if known else DEFAULT_ATTAINMENT
        return cls(limits, share, text if known else "")

    def misses(self, sample: Sample) -> tuple[str, ...]:
        """Why `sample` is not good: `error`, or the clauses it broke; nothing if it is good."""
        if not sample.is_good:
            return ("error",)
        # An answer without text shows nothing before its end.
        first_s = sample.e2e_s if sample.ttft_s is None else sample.ttft_s
        seen = {"ttft": first_s, "tpot": sample.tpot_s, "e2e": sample.e2e_s, "stall": sample.stall_s}
        return tuple(name for name, limit in self.limits.items() if (seen[name] or 0.0) > limit)

    def __str__(self) -> str:
        limits = ", ".join(f"{name.upper()} {1e3 * limit:g} ms" for name, limit in self.limits.items())
        return f"{self.name + ': ' if self.name else ''}{limits} for {100 * self.attainment:.4g} % of the requests"


def _limits(text: str) -> dict[str, float]:
    clauses = [_clause(part) for part in text.split(",")]
    limits = dict(clauses)
    if len(limits) < len(clauses):
        raise ValueError(f"{text!r} limits the same figure twice; write one limit for each")
    return limits


def _clause(text: str) -> tuple[str, float]:
    name, _, limit = text.strip().partition(":")
    if name not in CLAUSES:
        raise ValueError(
            f"{text!r} is no part of an SLO; write limits such as ttft:200ms,tpot:50ms (of {', '.join(CLAUSES)}), "
            f"or one of the presets {', '.join(PRESETS)}"
        )
    try:
        return name, parse_duration(limit)
    except ValueError as error:
        raise ValueError(f"{text.strip()!r}: {error}") from None


def parse_attainment(text: str) -> float:
    """A share below 1: no number of requests can show that all keep an SLO. Raises `ValueError`."""
    share = parse_share(text)
    if not 0 < share < 1:
        raise ValueError(f"{text!r} cannot be shown with any number of requests; write a share such as 99% or 0.95")
    return share


def _mlperf(ttft_ms: int, tpot_ms: int) -> BenchSlo:
    return BenchSlo({"ttft": ttft_ms / 1e3, "tpot": tpot_ms / 1e3}, 0.99)


# MLPerf inference, `loadgen/mlperf.conf`, Server scenario: p99 of TTFT and of TPOT; GuideLLM's guide for the use cases.
PRESETS: dict[str, BenchSlo] = {
    "mlperf-llama2-70b": _mlperf(2000, 200),
    "mlperf-llama2-70b-interactive": _mlperf(450, 40),
    "mlperf-llama3.1-405b": _mlperf(6000, 175),
    "mlperf-llama3.1-405b-interactive": _mlperf(4500, 80),
    "mlperf-llama3.1-8b": _mlperf(2000, 100),
    "mlperf-llama3.1-8b-interactive": _mlperf(500, 30),
    "mlperf-deepseek-r1": _mlperf(2000, 80),
    "mlperf-deepseek-r1-interactive": _mlperf(1500, 15),
    "chat": BenchSlo({"ttft": 0.2, "tpot": 0.05}, 0.99),
    "rag": BenchSlo({"ttft": 0.3, "tpot": 0.1, "e2e": 3.0}, 0.99),
    "code": BenchSlo({"ttft": 0.5, "tpot": 0.15}, 0.99),
    "completion": BenchSlo({"e2e": 2.0}, 0.99),
}
