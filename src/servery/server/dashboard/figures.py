"""How models, deployments and engines are now, as the dashboard reads it. No secret, no address, no text of anybody's."""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from servery.config.types import Price, Slo
from servery.engine.glimpse import Glimpse
from servery.engine.stats import EngineInfo, EngineStats
from servery.gateway.dispatch.deployment import Deployment
from servery.gateway.fleet import Fleet
from servery.telemetry.ceilings import Utilization
from servery.telemetry.ledger.row import LedgerRow
from servery.telemetry.slo import SloReport
from servery.telemetry.timeline import Point, Summary

_RANKS = {"closed": 0, "half_open": 1, "open": 2}
MOST_KEYS = 200


def model_figures(fleet: Fleet) -> dict[str, Any]:
    """Every model: where it runs, by which SLO."""
    return {
        name: {"deployments": list(served.config.deployments), "slo": _slo(served.config.slo)}
        for name, served in fleet.models.items()
    }


def deployment_figures(fleet: Fleet, now: float) -> dict[str, Any]:
    """Every deployment as this process sees it; `now` is of the clock of its breakers."""
    return {name: _deployment(each, now) for name, each in fleet.deployments.items()}


def joined_deployments(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The deployments as all workers see them: what each has there added up, of breakers and throttles the worst."""
    joined: dict[str, Any] = {}
    for part in parts:
        for name, each in part.items():
            known = joined.get(name)
            joined[name] = dict(each) if known is None else _joined(known, each)
    return joined


def engine_figures(
    info: EngineInfo | None,
    stats: EngineStats | None,
    seen: Glimpse | None,
    utilization: Callable[[EngineStats, EngineInfo], Utilization],
) -> dict[str, Any]:
    """An engine of this process: counters since its start, how full it is, and what was seen of it lately.

    `utilization` tells what its last steps come to of what its machine can do.
    """
    figures: dict[str, Any] = {"is_loaded": stats is not None}
    if info is not None:
        figures |= {"block_tokens": info.block_size, "kernels": info.kernels, "weights": info.weight_dtype}
    if stats is not None:
        of = stats.scheduler
        figures |= {
            "running": of.running,
            "waiting": of.waiting,
            "blocks": {
                "all": of.num_blocks,
                "held": of.held_blocks,
                "cached": of.cached_blocks,
                "free": of.free_blocks,
            },
            "prefix_queries": of.prefix_query_tokens,
            "prefix_hits": of.prefix_hit_tokens,
            "preemptions": of.preemptions,
            "drafted": of.drafted_tokens,
            "accepted": of.accepted_draft_tokens,
            "steps": stats.steps,
            "step_s": stats.step_s,
            "step_tokens": stats.step_tokens,
            "read_bytes": stats.read_bytes,
        }
    if info is not None and stats is not None:
        used = utilization(stats, info)
        figures |= {
            "is_measured": used.peak_bytes_per_s is not None,
            "mbu": _rounded(used.mbu),
            "mfu": _rounded(used.mfu),
        }
    if seen is not None:
        figures["seen"] = {
            "steps": seen.steps,
            "num_steps": seen.num_steps,
            "cells": b64encode(seen.cells).decode(),
            "blocks_per_cell": seen.blocks_per_cell,
            "held": seen.held_blocks,
            "cached": seen.cached_blocks,
            "shared": seen.shared_blocks,
        }
    return figures


def point_figures(point: Point, pace: float | None = None) -> list[float | None]:
    """A slice in the order of `POINT`; `pace` are generated tokens per second as they were counted, None if nobody did."""
    return [
        *point[:9],
        *map(_rounded, (*point.ttft, *point.tpot)),
        None if pace is None else round(pace, 2),
    ]


POINT = (
    "at_s", "exchanges", "completed", "good", "missed", "prompt_tokens", "cached_tokens", "generated_tokens",
    "cost_nanousd", "ttft_p50_ms", "ttft_p95_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p95_ms", "tpot_p99_ms",
    "generated_per_s",
)  # fmt: skip


def summary_figures(summary: Summary, window_s: float) -> dict[str, Any]:
    """A whole window."""
    total = summary.total
    dearest = sorted(summary.by_key.items(), key=lambda item: (-item[1][3], -item[1][0], item[0]))
    return {
        "window_s": window_s,
        **{name: getattr(total, name) for name in POINT[1:9]},
        "ttft_ms": list(map(_rounded, total.ttft)),
        "tpot_ms": list(map(_rounded, total.tpot)),
        "measured": summary.measured,
        "errors": summary.errors,
        "by_deployment": summary.by_deployment,
        "by_key": dict(dearest[:MOST_KEYS]),
    }


def budget_figures(report: SloReport) -> dict[str, Any]:
    """What is left of a model's error budget, how fast it is used up now, and the alerts that fire."""
    fastest = max((each.burn_rate or 0.0 for each in report.windows if each.window == "1h"), default=0.0)
    return {
        "window": report.error_budget.window,
        "remaining": _rounded(report.error_budget.remaining),
        "burn_rate_1h": _rounded(fastest),
        "alerts": [
            {"severity": each.severity, "window": each.long, "burn_rate": _rounded(each.long_burn_rate)}
            for each in report.alerts
            if each.is_firing
        ],
    }


def exchange_figures(row: LedgerRow) -> dict[str, Any]:
    """One exchange that is over."""
    return {
        "id": row.id,
        "request_id": row.request_id,
        "at_s": round(row.at_s, 3),
        "api": row.api,
        "key": row.key_id,
        "model": row.served_model,
        "deployment": row.deployment,
        "tier": row.tier,
        "is_stream": row.is_stream,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "generated_tokens": row.generated_tokens,
        "queue_ms": _ms(row.queue_s),
        "ttft_ms": _ms(row.ttft_s),
        "tpot_ms": _ms(row.tpot_s),
        "e2e_ms": _ms(row.e2e_s),
        "is_slo_met": row.is_slo_met,
        "cost_nanousd": row.cost_nanousd,
        "attempts": row.attempts,
        "route": row.route,
        "outcome": row.outcome,
        "status": row.status,
        "failure": row.error,
    }


def _deployment(deployment: Deployment, now: float) -> dict[str, Any]:
    config, slots = deployment.config, deployment.slots
    return {
        "kind": config.kind.value,
        "tier": config.tier.value,
        "model": config.model,
        "breaker": deployment.breaker.state.value,
        "tried_again_s": _rounded(deployment.breaker.retry_after_s(now)),
        "throttled_s": _rounded(deployment.throttle.retry_after_s(now)),
        "is_ready": deployment.upstream.health().is_ready,
        "in_flight": slots.in_flight,
        "waiting": slots.waiting,
        "limit": slots.limit,
        "price": _price(config.price),
    }


def _joined(one: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    worse = max(one, other, key=lambda each: _RANKS[each["breaker"]])
    limits = (one["limit"], other["limit"])
    return {
        **one,
        "breaker": worse["breaker"],
        "tried_again_s": max(one["tried_again_s"], other["tried_again_s"]),
        "throttled_s": max(one["throttled_s"], other["throttled_s"]),
        "is_ready": one["is_ready"] or other["is_ready"],
        "in_flight": one["in_flight"] + other["in_flight"],
        "waiting": one["waiting"] + other["waiting"],
        "limit": None if None in limits else sum(limits),
    }


def _slo(slo: Slo | None) -> dict[str, float] | None:
    if slo is None:
        return None
    return {"ttft_ms": 1000 * slo.ttft_s, "tpot_ms": 1000 * slo.tpot_s, "attainment": slo.attainment}


def _price(price: Price) -> dict[str, int]:
    return {
        "input_per_mtok": price.input_per_mtok,
        "cached_per_mtok": price.cached_per_mtok,
        "output_per_mtok": price.output_per_mtok,
        "per_hour": price.per_hour,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 2)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
