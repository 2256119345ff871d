"""Weights of 8 and 4 bits: memory, speed of a step, and what is lost, counted in answers and in distributions."""

import gzip
import math
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson
import torch

from benchmarks.claims.claim import Reading
from benchmarks.claims.kv_size import config_of
from benchmarks.claims.measurement import Figures, Measurement, Readings, ratio
from benchmarks.claims.stage import Stage
from benchmarks.native_steps import Case, batch_of
from benchmarks.result import interleaved, median_ratio
from servery import amuse
from servery.engine.core import EngineCore
from servery.engine.quantization.scheme import AWQ, ROUND, plan_rounding
from servery.evals.compare import StratumComparison
from servery.evals.compare import compare as compare_runs
from servery.evals.fidelity import FidelityOptions
from servery.evals.fidelity import measure as fidelity
from servery.evals.run import RunOptions
from servery.evals.run import run as evaluate

DENSE, INT8, INT4 = "16 bits", "int8", "int4"
SCHEMES: dict[str, dict[str, Any]] = {DENSE: {}, INT8: {"quantize": INT8}, INT4: {"quantize": INT4}}
SENSITIVE = ("arithmetic", "reasoning", "format")
ROWS = (1, 16)


def _measure(stage: Stage) -> dict[str, Any]:
    tasks = subset(stage, stage.pick(250, 4))
    for answered in stage.folder.glob("*-answers.jsonl"):
        answered.unlink()  # of another run, which would be gone on with
    small = {name: stage.engine(stage.amuse, **each) for name, each in SCHEMES.items()}
    large = {name: stage.engine(stage.large, **_rounded(each)) for name, each in SCHEMES.items()}
    return {
        "weight_bytes": {"amuse": _weights(small), "473M": _weights(large)},
        "plans": plans(stage),
        "steps": _steps(stage, large),
        "answers": {name: _answers(stage, tasks, name) for name in (INT8, INT4)},
        "divergence": {method: _divergence(stage, method) for method in (AWQ, ROUND)},
    }


def _weights(cores: Mapping[str, EngineCore]) -> dict[str, int]:
    return {name: core.info.weight_bytes for name, core in cores.items()}


def _rounded(each: Mapping[str, Any]) -> dict[str, Any]:
    """Of random numbers there is nothing to be calibrated."""
    method = {"quantize_method": ROUND} if each else {}
    return {**each, **method, "dtype": "bfloat16", "kv_memory_bytes": 512 << 20}


def _steps(stage: Stage, cores: Mapping[str, EngineCore]) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds of a step with 16-bit weights over those with less, by scheme and rows."""
    found: dict[str, dict[str, dict[str, float]]] = {INT8: {}, INT4: {}}
    for rows in ROWS:
        seconds: dict[str, list[float]] = {name: [] for name in cores}
        for number, name in interleaved(tuple(cores), stage.pick(8, 2)):
            took = step_s(cores[name], Case(rows, 1, stage.pick(128, 32)))
            if number:  # the first warms up
                seconds[name].append(took)
        for name, by_rows in found.items():
            by_rows[str(rows)] = median_ratio(seconds[DENSE], seconds[name])
    return found


def step_s(core: EngineCore, case: Case) -> float:
    """Seconds of one step, from token ids to logits."""
    batch = batch_of(case, core.info.block_size)
    last = torch.arange(1, case.rows + 1) * case.tokens - 1
    began = perf_counter()
    core.model.logits(core.model.forward(batch, core.cache).index_select(0, last))
    return perf_counter() - began


def plans(stage: Stage) -> dict[str, dict[str, int]]:
    """What models that do not fit here would take in 16 and in 4 bits, and a token's keys and values, in bytes."""
    found = {}
    for name in ("Llama-2-7B", "Llama-2-13B", "Llama-2-70B"):
        config = config_of(name, stage)
        found[name] = {
            DENSE: config.weight_bytes(2),
            INT4: plan_rounding(config, INT4).weight_bytes(config, 2),
            "kv_bytes_per_token": config.kv_bytes_per_token(2),
        }
    return found


def subset(stage: Stage, per_stratum: int) -> Path:
    """The first tasks of each stratum, as a file."""
    with gzip.open(amuse.TASKS) as lines:
        rows = [(orjson.loads(line)["stratum"], line) for line in lines]
    seen: dict[str, int] = {}
    kept = []
    for stratum, line in rows:
        seen[stratum] = seen.get(stratum, 0) + 1
        if seen[stratum] <= per_stratum:
            kept.append(line)
    file = stage.folder / f"tasks-{per_stratum}.jsonl"
    file.write_bytes(b"".join(kept))
    return file


def _answers(stage: Stage, tasks: Path, scheme: str) -> dict[str, Any]:
    """What is lost of the right answers of amuse."""
    runs = {}
    for name in (DENSE, scheme):
        out = stage.folder / f"{tasks.stem}-{name.replace(' ', '-')}-answers.jsonl"
        settings = {**SCHEMES[name], "threads": 1}
        runs[name] = evaluate(RunOptions(tasks=tasks, out=out, offline=stage.amuse, engine=settings))
    found = compare_runs(runs[DENSE], runs[scheme])
    return {"whole": _loss(found.whole), "strata": {each.stratum: _loss(each) for each in found.strata}}


def _loss(found: StratumComparison) -> dict[str, float]:
    """Percentage points, with the interval."""
    pairs, interval = found.pairs, found.interval
    assert interval is not None, f"{found.stratum} has no answers"
    return {
        "loss": 100 * (pairs.baseline_only - pairs.candidate_only) / pairs.n,
        "low": -100 * interval.high,
        "high": -100 * interval.low,
        "tasks": pairs.n,
    }


def _divergence(stage: Stage, method: str) -> dict[str, float]:
    """Nats per token between 16 and 4 bits, by stratum."""
    report = fidelity(
        FidelityOptions(
            texts=amuse.TASKS,
            baseline=stage.amuse,
            candidate=stage.amuse,
            candidate_engine={"quantize": INT4, "quantize_method": method},
            limit=stage.pick(40, 2),
            threads=1,
        )
    )
    return {each.stratum: each.divergence.value for each in report.strata}


def gpus(weight_bytes: int, gigabytes: int) -> int:
    """How many GPUs of this size it takes to hold weights."""
    return math.ceil(weight_bytes / (gigabytes * 1e9))


def _readings(figures: Figures) -> Readings:
    held, planned = figures["weight_bytes"], figures["plans"]
    of_70b = planned["Llama-2-70B"]
    losses = {scheme: figures["answers"][scheme]["whole"] for scheme in (INT8, INT4)}
    strata = figures["answers"][INT4]["strata"]
    worst = max(strata, key=lambda name: strata[name]["loss"])
    in_4_bits = [_lost("amuse, INT4 (AWQ)", losses[INT4])]
    times = [
        Reading(f"{name}, {scheme.upper()}", of[DENSE] / of[scheme])
        for name, of in held.items()
        for scheme in (INT8, INT4)
    ]
    small = {name: (of[DENSE], of[INT4]) for name, of in (*held.items(), *planned.items())}
    eight = {name: of[INT4] + 8 * 2048 * of["kv_bytes_per_token"] for name, of in planned.items() if "70B" not in name}
    return {
        "quantized-memory": [Reading(name, 100 * (1 - less / full)) for name, (full, less) in small.items()],
        "quantized-2-to-4": times,
        "quantized-70b": [Reading("Llama-2-70B", of_70b[INT4] / 1e9)],
        "quarter-of-the-gpus": [Reading("GPUs of 80 GB", gpus(of_70b[DENSE], 80) / gpus(of_70b[INT4], 80))],
        "a10g": [Reading(name, size / 1e9) for name, size in eight.items()],
        "int4-loss": in_4_bits,
        "int4-loss-1": in_4_bits,
        "int8-loss": [_lost("amuse, INT8", losses[INT8])],
        "within-5-of-fp16": [_lost(worst, strata[worst])],
        "awq-over-rounding": [
            Reading("amuse", figures["divergence"][ROUND]["(all)"] / figures["divergence"][AWQ]["(all)"])
        ],
        "sensitive-tasks": [Reading("amuse", sensitivity(figures["divergence"][AWQ]))],
        "quantized-speed": [
            ratio(f"473M, {scheme.upper()}, {rows} sequence{'s' if rows != '1' else ''}", found)
            for scheme, by_rows in figures["steps"].items()
            for rows, found in by_rows.items()
        ],
        "twice-the-capacity": [Reading(name, full / less) for name, (full, less) in small.items()],
    }


def _lost(of: str, found: Mapping[str, float]) -> Reading:
    return Reading(of, found["loss"], found["low"], found["high"])


def sensitivity(divergence: Mapping[str, float]) -> float:
    """The mean of the strata that are said to suffer, over that of the others."""
    others = [value for name, value in divergence.items() if name not in (*SENSITIVE, "(all)")]
    return sum(divergence[name] for name in SENSITIVE) / len(SENSITIVE) / (sum(others) / len(others))


QUANTIZATION = Measurement(
    "quantization",
    150.0,
    "Weights as engines hold them, and as planned for shapes that are too large. Steps of the 473M model at 128 tokens of "
    "context. Losses: 250 held-out tasks of each of amuse's 10 strata, greedy answers, paired; divergence: 40 right answers of each.",
    _measure,
    _readings,
)
