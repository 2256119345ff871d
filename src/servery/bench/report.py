"""The figures of a run, computed from its samples, and as JSON (`schema.json` beside this file)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict

import orjson

from servery.bench.attainment import Attainment, attained
from servery.bench.backlog import is_growing
from servery.bench.bandwidth import Bandwidth
from servery.bench.engine_meter import EngineWork
from servery.bench.engine_watch import FirstTokens, Moment
from servery.bench.machine import Provenance
from servery.bench.measured import Measured
from servery.bench.percentile import Distribution
from servery.bench.sample import Sample
from servery.bench.slo import BenchSlo
from servery.bench.stop import Stop

SCHEMA = "servery.bench/2"
_SLO_BLOCK = 10  # neighbours that may miss together


@dataclass(frozen=True, slots=True)
class Throughput:
    """Per second over the whole run; `steady_` over the part in which all clients were busy, if there was one."""

    good_requests: float
    output_tokens: float
    prompt_tokens: float
    steady_output_tokens: float | None


@dataclass(frozen=True, slots=True)
class SloFigures:
    """How an SLO was kept. A request that broke several limits is counted under each in `misses`.

    `goodput` is good requests a second; `dollars_per_million_good_tokens` counts the output tokens of good requests.
    """

    slo: str
    limits: dict[str, float]  # seconds by clause
    target: float
    attainment: Attainment
    misses: dict[str, int]
    goodput: float
    is_backlog_growing: bool
    dollars_per_million_good_tokens: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run showed. Latencies are of good requests only; errors are counted by kind, with one example each."""

    load: str
    good: int
    errors: dict[str, int]
    error_examples: dict[str, str]
    wall_s: float
    latency: dict[str, Distribution]
    throughput: Throughput
    prompt_tokens: Distribution
    output_tokens: Distribution
    cached_share: float | None
    tokens_per_event: float | None
    client_cpu_share: float
    slo: SloFigures | None
    ttft_by_turn_ms: dict[str, Distribution] = field(default_factory=dict)  # of conversations, by the turn's number


Latency = Literal["ttft_s", "tpot_s", "e2e_s", "stall_s"]  # the columns of a row that are latencies


class Row(TypedDict):
    """One request: `due_s` and `sent_s` count from the beginning of the run, the others from when it was due."""

    due_s: float
    sent_s: float
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    stall_s: float | None
    prompt_tokens: int | None
    cached_tokens: int
    output_tokens: int
    events: int
    finish_reason: str | None
    error: str | None
    misses: tuple[str, ...] | None
    turn: int


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about one run.

    `faults` say why it is invalid, `notes` what the reader must know to judge the figures.
    """

    provenance: Provenance
    options: Any
    model: str
    offered_rate: float | None  # requests a second, in an open loop
    clients: int | None  # in a closed one
    summary: Summary
    faults: list[str]
    engine: EngineWork | None
    bandwidth: Bandwidth | None
    notes: list[str]
    samples: list[Row]
    schema: str = SCHEMA
    first_tokens: FirstTokens | None = None
    moments: list[Moment] = field(default_factory=list)  # how the engine was as the run went on

    @property
    def slo_limits(self) -> dict[str, float]:
        """The limits that were asked for, in seconds by clause; none without an SLO."""
        return self.summary.slo.limits if self.summary.slo is not None else {}


def dollars(cost: float) -> str:
    """As people write it: cents from a dollar up, three digits below."""
    return f"${cost:,.2f}" if cost >= 1 else f"${cost:.3g}"


def faults_of(runs: Sequence[Report]) -> list[str]:
    """Why the runs are invalid, each reason once, with one example where it is that of several."""
    if len(runs) == 1:
        return runs[0].faults
    reasons: dict[str, list[str]] = {}
    for fault in (fault for run in runs for fault in run.faults):
        reasons.setdefault(fault.partition(":")[0], []).append(fault)
    return [f"{len(same)} of {len(runs)} runs: {same[0]}" for same in reasons.values()]


def cut_short(runs: Sequence[Report], stop: Stop) -> list[Report]:
    """`runs`, the last of which says so if the measurement was to go on after it."""
    if not stop.is_asked or not runs or runs[-1].faults:
        return list(runs)
    return [*runs[:-1], replace(runs[-1], faults=["stopped after this run; more were to follow"])]


def offered_rate(requests: Sequence[float]) -> float | None:
    """Requests a second, of the times at which they were due; None below two."""
    span_s = max(requests, default=0.0) - min(requests, default=0.0)
    return (len(requests) - 1) / span_s if span_s > 0 else None


def as_json(report: object) -> bytes:
    """Indented, with a newline at the end."""
    return orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def summarize(measured: Measured, slo: BenchSlo | None = None, dollars_per_hour: float | None = None) -> Summary:
    """The figures of `measured`."""
    good = [sample for sample in measured.samples if sample.is_good]
    bad = [sample for sample in measured.samples if not sample.is_good]
    prompt = [sample.prompt_tokens for sample in good if sample.prompt_tokens is not None]
    output = [sample.output_tokens for sample in good]
    events = sum(len(sample.arrivals) for sample in good)
    return Summary(
        load=measured.load,
        good=len(good),
        errors=dict(Counter(str(sample.error_kind) for sample in bad)),
        error_examples={str(sample.error_kind): str(sample.error) for sample in reversed(bad)},
        wall_s=measured.wall_s,
        latency={name: Distribution.of(values) for name, values in _latencies(measured, good).items()},
        throughput=_throughput(measured, good),
        prompt_tokens=Distribution.of(prompt),
        output_tokens=Distribution.of(output),
        cached_share=sum(sample.cached_tokens for sample in good) / sum(prompt) if sum(prompt) else None,
        tokens_per_event=sum(output) / events if events else None,
        client_cpu_share=measured.client_cpu_share,
        slo=slo_figures(measured, slo, dollars_per_hour) if slo is not None else None,
        ttft_by_turn_ms=_by_turn(good),
    )


def _by_turn(good: Sequence[Sample]) -> dict[str, Distribution]:
    """TTFT of each turn: what a prefix cache is worth to those who go on talking."""
    turns = sorted({sample.turn for sample in good})
    if turns in ([], [1]):
        return {}
    return {str(turn): Distribution.of(_ms(one.ttft_s for one in good if one.turn == turn)) for turn in turns}


def slo_figures(measured: Measured, slo: BenchSlo, dollars_per_hour: float | None = None) -> SloFigures:
    """How `measured` kept `slo`. What was under way when a run was given up is not judged."""
    missed = [slo.misses(sample) for sample in measured.samples]
    good = [sample for sample, why in zip(measured.samples, missed, strict=True) if not why]
    tokens = sum(sample.output_tokens for sample in good)
    return SloFigures(
        slo=str(slo),
        limits=dict(slo.limits),
        target=slo.attainment,
        attainment=attained([not why for why in missed], _SLO_BLOCK),
        misses=dict(Counter(clause for why in missed for clause in why)),
        goodput=len(good) / measured.wall_s,
        is_backlog_growing=measured.is_open and _piles_up(measured),
        dollars_per_million_good_tokens=_per_million(dollars_per_hour, measured.wall_s, tokens),
    )


def _piles_up(measured: Measured) -> bool:
    starts = [sample.scheduled for sample in measured.samples]
    return is_growing(starts, [sample.ended or sample.sent for sample in measured.samples])


def _per_million(dollars_per_hour: float | None, wall_s: float, tokens: int) -> float | None:
    return dollars_per_hour * wall_s / 3600 / tokens * 1e6 if dollars_per_hour is not None and tokens else None


def _latencies(measured: Measured, good: Sequence[Sample]) -> dict[str, list[float]]:
    gaps = [sample.gaps_s for sample in good]
    lags = {"lag_ms": _ms(sample.lag_s for sample in measured.samples)} if measured.is_open else {}
    return {
        "ttft_ms": _ms(sample.ttft_s for sample in good),
        "tpot_ms": _ms(sample.tpot_s for sample in good),
        "itl_ms": _ms(gap for of_one in gaps for gap in of_one),
        "stall_ms": _ms(sample.stall_s for sample in good),
        "e2e_ms": _ms(sample.e2e_s for sample in good),
        **lags,
    }


def _ms(seconds: Iterable[float | None]) -> list[float]:
    return [1e3 * value for value in seconds if value is not None]


def _throughput(measured: Measured, good: Sequence[Sample]) -> Throughput:
    wall_s, steady_s = measured.wall_s, measured.steady_s
    steady_end = measured.began + steady_s
    # What failed half-way was generated, too: tokens per second are the server's work, good requests the user's gain.
    steady = sum(_tokens_until(sample, steady_end) for sample in measured.samples)
    return Throughput(
        good_requests=len(good) / wall_s,
        output_tokens=sum(sample.output_tokens for sample in measured.samples) / wall_s,
        prompt_tokens=sum(sample.prompt_tokens or 0 for sample in measured.samples) / wall_s,
        # Shorter than half the run it is mostly the first burst and says little.
        steady_output_tokens=steady / steady_s if steady_s > wall_s / 2 else None,
    )


def _tokens_until(sample: Sample, end: float) -> float:
    """Tokens that had arrived by `end`, each event taken to carry the request's mean."""
    if not sample.arrivals:
        return 0.0
    arrived = sum(1 for at in sample.arrivals if at <= end)
    return arrived * sample.output_tokens / len(sample.arrivals)


def sample_rows(measured: Measured, slo: BenchSlo | None = None) -> list[Row]:
    """One row per request for the JSON; `due_s` and `sent_s` count from the beginning of the run."""
    return [
        {
            "due_s": sample.scheduled - measured.began,
            "sent_s": sample.sent - measured.began,
            "ttft_s": sample.ttft_s,
            "tpot_s": sample.tpot_s,
            "e2e_s": sample.e2e_s,
            "stall_s": sample.stall_s,
            "prompt_tokens": sample.prompt_tokens,
            "cached_tokens": sample.cached_tokens,
            "output_tokens": sample.output_tokens,
            "events": len(sample.arrivals),
            "finish_reason": sample.finish_reason,
            "error": sample.error_kind,
            "misses": slo.misses(sample) if slo is not None else None,
            "turn": sample.turn,
        }
        for sample in measured.samples
    ]
