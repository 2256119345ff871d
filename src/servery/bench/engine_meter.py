"""What an embedded engine read from memory during a run, and the share of the machine's bandwidth that was (MBU).

MBU = bytes that the steps had to read at least (all weights once per step, the KV of every context) / time in steps /
the bandwidth measured on the same machine; the definition is Databricks' (LLM Inference Performance Engineering, 2023).
"""

from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from servery.bench.bandwidth import Bandwidth


class Counters(NamedTuple):
    """An engine's counters since its start."""

    steps: float
    step_s: float
    step_tokens: float
    read_bytes: float
    prefix_query_tokens: float
    prefix_hit_tokens: float
    preemptions: float


# In the order of the fields of `Counters`.
_METRICS = (
    "servery_engine_steps_total",
    "servery_engine_step_seconds_total",
    "servery_engine_step_tokens_total",
    "servery_engine_read_bytes_total",
    "servery_prefix_cache_queries_total",
    "servery_prefix_cache_hits_total",
    "servery_num_preemptions_total",
)


@dataclass(frozen=True, slots=True)
class EngineWork:
    """What the engine did during a run; `mbu` None: the bandwidth was not measured."""

    steps: int
    step_ms: float
    tokens_per_step: float
    read_bytes_per_step: float
    achieved_bytes_per_s: float
    mbu: float | None
    prefix_hit_share: float | None
    preemptions: int


def read_counters(metrics: str, model: str) -> Counters | None:
    """The counters of `model`'s engine in Prometheus' text format; None if no embedded engine runs there."""
    found: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(metrics):
            for sample in family.samples:
                if sample.labels.get("model_name") == model:
                    found[sample.name] = sample.value
    except ValueError:
        return None  # another server's page
    if any(name not in found for name in _METRICS):
        return None
    return Counters(*(found[name] for name in _METRICS))


def work_between(before: Counters | None, after: Counters | None, bandwidth: Bandwidth | None) -> EngineWork | None:
    """What happened between two readings; None if there was no step, or the engine was restarted or tells nothing."""
    if before is None or after is None:
        return None
    change = Counters(*(late - early for early, late in zip(before, after, strict=True)))
    if change.steps <= 0 or change.step_s <= 0 or min(change) < 0:
        return None
    achieved = change.read_bytes / change.step_s
    queried = change.prefix_query_tokens
    return EngineWork(
        steps=round(change.steps),
        step_ms=1e3 * change.step_s / change.steps,
        tokens_per_step=change.step_tokens / change.steps,
        read_bytes_per_step=change.read_bytes / change.steps,
        achieved_bytes_per_s=achieved,
        mbu=achieved / bandwidth.best_bytes_per_s if bandwidth is not None else None,
        prefix_hit_share=change.prefix_hit_tokens / queried if queried else None,
        preemptions=round(change.preemptions),
    )
