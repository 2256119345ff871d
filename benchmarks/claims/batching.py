"""Continuous against static batching: the policy alone, in the same memory, and against transformers."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.claims.claim import Reading
from benchmarks.claims.measurement import Figures, Measurement, Readings, ratio, spread
from benchmarks.claims.stage import Stage
from benchmarks.claims.transformers_batches import TransformersBatches
from benchmarks.continuous_batching import PROMPT, Load, Policy, answer_length, compare, measure, policies, workload
from benchmarks.result import interleaved, median_ratio
from servery.bench.lengths import Lengths, LogNormal
from servery.bench.page.axis import Axis
from servery.bench.page.plot import Plot
from servery.bench.span import Span
from servery.engine.core import EngineCore
from servery.engine.request import NewRequest

BATCH = 16
MOST = 1536  # tokens of an answer
PADDED, RAGGED, CONTINUOUS = "static, padded", "static", "continuous"


@dataclass(frozen=True, slots=True)
class Exponential:
    """Lengths of a mean, exponentially distributed, cut off at `most`."""

    mean: float
    most: int = MOST

    def draw(self, source: random.Random) -> int:
        """One length, at least 1."""
        return min(self.most, 1 + int(source.expovariate(1 / self.mean)))


@dataclass(frozen=True, slots=True)
class _CutOff:
    lengths: Lengths
    most: int = MOST

    def draw(self, source: random.Random) -> int:
        return min(self.most, self.lengths.draw(source))


EXPONENTIAL = "exponential"
# All of mean 128, by how much they vary.
SPREADS: dict[str, Lengths] = {
    "all the same": Span(128, 128),
    "even, 64 to 192": Span(64, 192),
    EXPONENTIAL: Exponential(128),
    "log-normal, p99 900": _CutOff(LogNormal(128, 900)),
}


def _measure(stage: Stage) -> dict[str, Any]:
    amuse = stage.engine(stage.amuse, max_running=BATCH)
    middle = stage.engine(stage.middle, max_running=BATCH)
    _warm_up(amuse)
    _warm_up(middle)
    requests = stage.pick(96, 4)
    by_spread = {}
    for name, lengths in SPREADS.items():
        by_spread[name] = _by_policy(amuse, _answers(amuse, requests, stage, lengths), _without_one(), 3, 14.0)
    shorter = _answers(middle, stage.pick(48, 4), stage, Exponential(64))
    return {
        "by_spread": by_spread,
        "middle": _by_policy(middle, shorter, _without_one(), 3, 26.0),
        "same_memory": _same_memory(stage),
        "transformers": {
            "amuse": _against_transformers(stage, amuse, "float32", Exponential(128), stage.pick(48, 2)),
            "middle": _against_transformers(stage, middle, "bfloat16", Exponential(64), stage.pick(32, 2)),
        },
    }


def _without_one() -> dict[str, Policy]:
    return {name: policy for name, policy in policies(BATCH).items() if name in (CONTINUOUS, RAGGED, PADDED)}


def _answers(core: EngineCore, number: int, stage: Stage, lengths: Lengths) -> list[NewRequest]:
    return workload(number, core.info.vocab_size, answers=stage.pick(lengths, Span(2, 6)))


def _warm_up(core: EngineCore) -> None:
    Load(core).run(workload(4, core.info.vocab_size, seed=1, answers=Span(8, 8)))


def _by_policy(
    core: EngineCore, requests: Sequence[NewRequest], chosen: dict[str, Policy], rounds: int, budget_s: float
) -> dict[str, Any]:
    found = measure(core, requests, chosen, rounds, budget_s)
    lengths = [answer_length(request) for request in requests]
    return {
        "answers": {"mean": statistics.fmean(lengths), "longest": max(lengths), "variation": variation(lengths)},
        "ratios": compare(found["runs"]),
        "occupancy": {name: [run["mean_batch"] / BATCH for run in runs] for name, runs in found["runs"].items()},
        "tokens_per_s": {name: [run["tokens_per_s"] for run in runs] for name, runs in found["runs"].items()},
    }


def variation(lengths: Sequence[int]) -> float:
    """Standard deviation over the mean."""
    return statistics.pstdev(lengths) / statistics.fmean(lengths)


def _same_memory(stage: Stage) -> dict[str, Any]:
    """A pool of KV memory: places of the longest request that may come, or pages for as many as fit; then transformers."""
    places, longest = stage.pick(8, 2), stage.pick(MOST, 6) + PROMPT[1]
    tokens = places * longest
    per_token = stage.engine(stage.amuse).info.kv_bytes_per_token
    core = stage.engine(stage.amuse, max_running=64, max_model_len=longest, kv_memory_bytes=tokens * per_token)
    _warm_up(core)
    requests = _answers(core, stage.pick(96, 4), stage, Exponential(128))
    chosen = {CONTINUOUS: Load.run, PADDED: policies(places)[PADDED]}
    before = core.stats()
    found = measure(core, requests, chosen, 3, 30.0)
    peer = TransformersBatches(stage.amuse, "float32")
    few = requests[: stage.pick(32, 2)]
    theirs = peer.tokens_per_s(few, places)
    ours = [run["tokens_per_s"] for run in found["runs"][CONTINUOUS]]
    return {
        "pool_tokens": tokens,
        "places": places,
        "mean_running": [run["mean_batch"] for run in found["runs"][CONTINUOUS]],
        "preemptions": core.stats().scheduler.preemptions - before.scheduler.preemptions,
        "ratios": compare(found["runs"]),
        "over_transformers": median_ratio(ours, [theirs] * len(ours)),
    }


def _against_transformers(stage: Stage, core: EngineCore, dtype: str, lengths: Lengths, number: int) -> dict[str, Any]:
    """The same requests by this engine and by `generate`, in turns."""
    model = stage.amuse if dtype == "float32" else stage.middle
    peer, requests = TransformersBatches(model, dtype), _answers(core, number, stage, lengths)
    peer.answer(workload(2, core.info.vocab_size, seed=1, answers=Span(4, 4)))  # warm up
    rates: dict[str, list[float]] = {"servery": [], "transformers": []}
    for _, name in interleaved(tuple(rates), 2, 25.0):
        if name == "transformers":
            rates[name].append(peer.tokens_per_s(requests, BATCH))
        else:
            load = Load(core)
            load.run(requests)
            rates[name].append(load.tokens / load.finished_s[-1])
    return {"rates": rates, "ratio": median_ratio(rates["servery"], rates["transformers"])}


def _readings(figures: Figures) -> Readings:
    spreads, middle, same = figures["by_spread"], figures["middle"], figures["same_memory"]
    usual, peers = spreads[EXPONENTIAL], figures["transformers"]
    policy = [
        ratio("policy alone, amuse", usual["ratios"][PADDED]["throughput"]),
        ratio("policy alone, 88M", middle["ratios"][PADDED]["throughput"]),
        ratio(f"same KV memory ({same['places']} places), amuse", same["ratios"][PADDED]["throughput"]),
    ]
    theirs = [
        ratio("against transformers, amuse", peers["amuse"]["ratio"]),
        ratio("against transformers, 88M", peers["middle"]["ratio"]),
    ]
    whole = ratio("against transformers in the same KV memory, amuse", same["over_transformers"])
    gains = [each["ratios"][PADDED]["throughput"]["median"] for each in spreads.values()]
    steps = zip(list(spreads)[1:], gains, gains[1:], strict=False)
    both = (("amuse", usual), ("88M", middle))
    return {
        "continuous-over-static": [*policy, *theirs, whole],
        "diverse-lengths": [Reading(name, after / before) for name, before, after in steps],
        "static-utilization": [_occupancy(name, each, PADDED) for name, each in both],
        "continuous-utilization": [_occupancy(name, each, CONTINUOUS) for name, each in both],
        "naive-hurts-latency": [ratio(name, each["ratios"][PADDED]["mean_finish"]) for name, each in both],
        "naive-transformers": theirs,
    }


def _occupancy(name: str, figures: Figures, policy: str) -> Reading:
    return spread(name, [100 * share for share in figures["occupancy"][policy]])


def _plots(figures: Figures) -> dict[str, Plot]:
    spreads = figures["by_spread"].values()
    lines = {
        "padded, as usual": [(each["answers"]["variation"], _gain(each, PADDED)) for each in spreads],
        "finished rows free": [(each["answers"]["variation"], _gain(each, RAGGED)) for each in spreads],
    }
    xs, ys = ([point[at] for line in lines.values() for point in line] for at in (0, 1))
    plot = Plot(
        "Continuous over static batching",
        "variation of answer lengths (deviation / mean)",
        "times the throughput",
        Axis.over(xs, from_zero=True),
        Axis.over(ys, from_zero=True),
    )
    for colour, (name, line) in enumerate(lines.items(), 1):
        plot.line(line, colour, name, has_dots=True)
    return {"batching": plot}


def _gain(figures: Figures, over: str) -> float:
    return float(figures["ratios"][over]["throughput"]["median"])


BATCHING = Measurement(
    "batching",
    200.0,
    "Batches of 16; 96 requests at once with prompts of 16 to 64 tokens and answers of 128 on average (exponential unless "
    "told otherwise); the 88M model 48 requests with answers of 64.",
    _measure,
    _readings,
    _plots,
)
