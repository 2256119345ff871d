"""What a run says, and what several of one placement say together. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.placement.fleet import Terms
from benchmarks.placement.replay import Sample
from benchmarks.result import median_interval
from servery.bench.percentile import quantile
from servery.telemetry.ledger.row import LedgerRow

_MILLION, _NANO = 1e6, 1e9
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Tally:
    """Predictions of the first token by one deployment: their number, and seconds in sum of what came and of the error."""

    predictions: float = 0.0
    actual_s: float = 0.0
    error_s: float = 0.0

    def since(self, before: "Tally") -> "Tally":
        """What was added."""
        return Tally(
            self.predictions - before.predictions, self.actual_s - before.actual_s, self.error_s - before.error_s
        )


def figures(
    samples: Sequence[Sample],
    rows: Sequence[LedgerRow],
    took_s: float,
    terms: Terms,
    predicted: Tally,
    *,
    has_own: bool,
) -> dict[str, Any]:
    """Of one run; `rows` are those of the samples, which were due within `took_s` seconds."""
    good = [each for each in samples if each.is_good(terms.ttft_s, terms.tpot_s)]
    good_tokens = sum(each.tokens + each.prompt_tokens for each in good)
    bill = sum(row.cost_nanousd for row in rows) / _NANO
    hours = terms.per_hour * took_s / _HOUR_S if has_own else 0.0
    ttfts_ms = sorted(1e3 * each.ttft_s for each in samples if each.ttft_s is not None)
    tpots_ms = sorted(1e3 * each.tpot_s for each in samples if each.tpot_s is not None)
    return {
        "requests": len(samples),
        "good": len(good),
        "good_share": len(good) / len(samples),
        "goodput_per_s": len(good) / took_s,
        "shed": sum(each.is_shed for each in samples),
        "failed": sum(each.error is not None and not each.is_shed for each in samples),
        "api_share": sum(row.deployment == "api" for row in rows) / max(1, len(rows)),
        "bill_usd": bill,
        "usd": bill + hours,
        "usd_per_million_good_tokens": (bill + hours) / good_tokens * _MILLION if good_tokens else None,
        "ttft_p50_ms": quantile(ttfts_ms, 0.5) if ttfts_ms else None,
        "ttft_p99_ms": quantile(ttfts_ms, 0.99) if ttfts_ms else None,
        "tpot_p50_ms": quantile(tpots_ms, 0.5) if tpots_ms else None,
        "tpot_p99_ms": quantile(tpots_ms, 0.99) if tpots_ms else None,
        "ttft_misses": sum(each.ttft_s is not None and each.ttft_s > terms.ttft_s for each in samples),
        "tpot_misses": sum(each.tpot_s is not None and each.tpot_s > terms.tpot_s for each in samples),
        "predicted_ms": 1e3 * predicted.actual_s / predicted.predictions if predicted.predictions else None,
        "prediction_error_ms": 1e3 * predicted.error_s / predicted.predictions if predicted.predictions else None,
    }


def together(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of several runs each figure's median, and the interval in which it lies."""
    found: dict[str, Any] = {}
    for name in runs[0]:
        values = [run[name] for run in runs if run[name] is not None]
        if values:
            low, high = median_interval(values)
            found[name] = {"median": statistics.median(values), "low": low, "high": high}
    return found
