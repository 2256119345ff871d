"""Speculative decoding: on amuse, and on amuse grown to a size at which reading the weights is what a step waits for."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.claims.claim import Reading
from benchmarks.claims.measurement import Figures, Measurement, Readings, ratio, spread
from benchmarks.claims.stage import Stage
from benchmarks.result import median_ratio
from benchmarks.speculation import FORMULAIC, FREE, compare, engines, questions

DRAFT, NGRAM, OFF = "draft", "ngram", "off"
TEXTS = {"formulaic": FORMULAIC, "free": FREE}
TOGETHER = 8


def _measure(stage: Stage) -> dict[str, Any]:
    kv: dict[str, Any] = {"kv_memory_bytes": 256 << 20, "threads": 1, "max_drafts": 8}
    grown = engines(stage.grown, stage.draft, TOGETHER, **kv)
    found: dict[str, Any] = {
        f"148M, {text}": _run(grown, stage.amuse, strata, 1, stage.pick(10, 3), stage.pick((3, 35.0), (1, 1.0)))
        for text, strata in TEXTS.items()
    }
    together = stage.pick(24, 3)
    found["148M, 8 at a time"] = _run(
        grown, stage.amuse, FORMULAIC, TOGETHER, together, stage.pick((3, 20.0), (1, 1.0))
    )
    small = engines(stage.amuse, stage.draft, 1, **kv)
    found["amuse, formulaic"] = _run(
        small, stage.amuse, FORMULAIC, 1, stage.pick(24, 3), stage.pick((5, 15.0), (1, 1.0))
    )
    return {"runs": found}


def _run(
    cores: Any, model: Path, strata: tuple[str, ...], batch: int, number: int, limits: tuple[int, float]
) -> dict[str, Any]:
    rounds, budget_s = limits
    return compare(cores, questions(model, strata, number), batch, rounds, warm_ups=1, budget_s=budget_s)


def _faster(modes: Mapping[str, Any], mode: str) -> dict[str, float]:
    """By the clock, over none."""
    return median_ratio(*([run["tokens_per_s"] for run in modes[each]["runs"]] for each in (mode, OFF)))


def _acceptance(modes: Mapping[str, Any]) -> list[float]:
    """Per cent, of the rounds that had drafts at all; 0 where none had."""
    return [100 * run["acceptance"] for run in modes[DRAFT]["runs"] if run["drafted"]] or [0.0]


def _readings(figures: Figures) -> Readings:
    runs = figures["runs"]
    formulaic, free = runs["148M, formulaic"], runs["148M, free"]
    alone = {name: modes for name, modes in runs.items() if "at a time" not in name}
    lengths = [run["mean_accepted_length"] or 1.0 for run in formulaic[DRAFT]["runs"]]
    accepted = {name: statistics.median(_acceptance(modes)) for name, modes in runs.items()}
    return {
        "speculation-speedup": [
            ratio(f"{name}, {word}", _faster(modes, mode))
            for name, modes in alone.items()
            for mode, word in ((DRAFT, "draft model"), (NGRAM, "prompt lookup"))
        ],
        "acceptance": [spread(name, _acceptance(modes)) for name, modes in runs.items()],
        "formulaic-text": [
            Reading("acceptance", accepted["148M, formulaic"] / (accepted["148M, free"] or 1.0)),
            Reading("speedup", _faster(formulaic, DRAFT)["median"] / _faster(free, DRAFT)["median"]),
        ],
        "same-output": [
            Reading(f"{name}, {mode}", 100 * modes[mode]["same_answers"])
            for name, modes in runs.items()
            for mode in (DRAFT, NGRAM)
        ],
        "tokens-per-pass": [spread("148M, formulaic", lengths)],
        "speculation-throughput": [ratio("148M, 8 at a time", _faster(runs["148M, 8 at a time"], DRAFT))],
    }


SPECULATION = Measurement(
    "speculation",
    130.0,
    "amuse-draft (0.4M) or prompt lookup, up to 8 drafts, one question at a time unless told otherwise: formulaic (arithmetic, "
    "reasoning, formats, lookups) and free ones (explanations, stories, small talk). 148M: amuse in the shape of a larger model.",
    _measure,
    _readings,
)
