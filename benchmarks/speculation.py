"""Speculation against none, on the embedded model: prompt lookup and the draft model, at several batch sizes.

Three engines hold the same model: without speculation, with prompt lookup, with the draft model. They answer the same
questions greedily, so many at a time, in short turns, so that ratios hold although the machine is shared; those of CPU
time are the steadier ones. A turn is timed as long as there are questions left to add, so that the batch is full: what a
smaller one does is told by the smaller ones. Prompts are computed in that time, too. The questions are of amuse's own
strata, formulaic ones (arithmetic, reasoning, formats, lookups) and free text (explanations, small talk, stories).
Windows are as the engine chooses them; what it has learnt of the machine and of acceptance it keeps from turn to turn.

Each ratio is the median of those of the rounds, with its 95 % confidence interval (order statistics, no assumption about
the noise). It says "slower" where all of that lies below 1. In the end, for each stratum at batch 1: the same ratio, and
how many drafts stood.

python -m benchmarks.speculation [--rounds 15] [--batches 1 4 16 64] [--max-drafts 8] [--kernels torch]
"""

import argparse
import gzip
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.result import interleaved, median_interval, publish
from servery import amuse
from servery.engine.chat_template import ChatTemplate, no_chat_template
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.request import NewRequest, SamplingParams
from servery.engine.stats import EngineStats
from servery.engine.tokenizer import Tokenizer

FORMULAIC = ("arithmetic", "reasoning", "format", "lookup", "context")
FREE = ("long", "smalltalk", "freetext")
MODES = ("off", "ngram", "draft")
LONGEST = 300  # tokens of an answer
_LEAST_REQUESTS = 48
_STRATUM_REQUESTS = 16
_WARM_UPS = 3


@dataclass(frozen=True, slots=True)
class Run:
    """What answering a list of prompts took and gave, as long as there were prompts to add."""

    tokens: int
    steps: int
    drafted: int
    accepted: int
    verified: int
    wall_s: float
    cpu_s: float

    @property
    def acceptance(self) -> float | None:
        """The share of drafts that stood; None without any."""
        return self.accepted / self.drafted if self.drafted else None

    def figures(self) -> dict[str, Any]:
        """For the result file."""
        return {
            "tokens_per_s": self.tokens / self.wall_s,
            "tokens_per_cpu_s": self.tokens / self.cpu_s,
            "tokens_per_step": self.tokens / self.steps,
            "drafted": self.drafted,
            "acceptance": self.acceptance,
            "mean_accepted_length": 1 + self.accepted / self.verified if self.verified else None,
        }


def engines(model: Path, draft: Path, batch: int, **options: Any) -> dict[str, EngineCore]:
    """One engine for each mode, with other options of `EngineConfig` as given."""
    cores = {}
    for mode in MODES:
        settings: dict[str, Any] = {"draft_model": draft} if mode == "draft" else {}
        config = EngineConfig(
            model=model,
            speculate=mode,
            max_running=batch,
            prefix_cache=False,  # a second round must not find what the first one computed
            **settings,
            **options,
        )
        cores[mode] = EngineCore(config)
    return cores


def questions(model: Path, strata: Sequence[str], number: int, first: int = 0) -> list[list[int]]:
    """Encoded prompts, of each stratum in turn; `first` skips as many of each."""
    tokenizer, template = Tokenizer.load(model), ChatTemplate.load(model)
    if template is None:
        raise no_chat_template(str(model))
    of_stratum = {stratum: [row for row in _tasks() if row["stratum"] == stratum][first:] for stratum in strata}
    each = -(-number // len(strata))
    spread = {stratum: rows[:: max(len(rows) // each, 1)][:each] for stratum, rows in of_stratum.items()}
    turns = [rows[at] for at in range(each) for rows in spread.values()]
    return [template.encode(tokenizer, row["messages"], row.get("tools")) for row in turns[:number]]


def _tasks() -> Iterator[Mapping[str, Any]]:
    with gzip.open(amuse.TASKS) as lines:
        yield from map(orjson.loads, lines)


def answer(core: EngineCore, prompts: Sequence[list[int]], batch: int) -> tuple[Run, list[list[int]]]:
    """Answer all prompts greedily, `batch` at a time: what it took while there were prompts to add, and the answers."""
    answers: list[list[int]] = [[] for _ in prompts]
    params = SamplingParams(temperature=0.0, max_tokens=LONGEST)
    before, began, cpu_began = core.stats(), perf_counter(), process_time()
    run = None
    added = finished = 0
    while finished < len(prompts):
        while added < len(prompts) and added - finished < batch:
            core.add(NewRequest(request_id=str(added), prompt=prompts[added], params=params), seed=0)
            added += 1
        if run is None and added == len(prompts) and added > batch:
            run = _run(answers, before, core.stats(), perf_counter() - began, process_time() - cpu_began)
        for output in core.step():
            answers[int(output.request_id)] += output.token_ids
            finished += output.finish_reason is not None
    return run or _run(answers, before, core.stats(), perf_counter() - began, process_time() - cpu_began), answers


def _run(answers: list[list[int]], before: EngineStats, after: EngineStats, wall_s: float, cpu_s: float) -> Run:
    return Run(
        tokens=sum(map(len, answers)),
        steps=after.steps - before.steps,
        drafted=after.scheduler.drafted_tokens - before.scheduler.drafted_tokens,
        accepted=after.scheduler.accepted_draft_tokens - before.scheduler.accepted_draft_tokens,
        verified=after.scheduler.draft_rounds - before.scheduler.draft_rounds,
        wall_s=wall_s,
        cpu_s=cpu_s,
    )


def compare(
    cores: Mapping[str, EngineCore],
    prompts: Sequence[list[int]],
    batch: int,
    rounds: int,
    warm_ups: int = _WARM_UPS,
    budget_s: float = math.inf,
) -> dict[str, dict[str, Any]]:
    """All modes in turns: for each the ratio over "off", by CPU time and by the clock, and how many answers are the same."""
    runs: dict[str, list[Run]] = {mode: [] for mode in cores}
    answers = {}
    for _ in range(warm_ups):  # the first answers of an engine teach it what things take
        for mode, core in cores.items():
            _, answers[mode] = answer(core, prompts, batch)
    for _, mode in interleaved(tuple(cores), rounds, budget_s):
        run, answers[mode] = answer(cores[mode], prompts, batch)
        runs[mode].append(run)
    same = {mode: sum(map(list.__eq__, found, answers["off"])) for mode, found in answers.items()}
    return {mode: _compared(found, runs["off"], same[mode] / len(prompts)) for mode, found in runs.items()}


def _compared(runs: Sequence[Run], plain: Sequence[Run], same: float) -> dict[str, Any]:
    figures = [run.figures() for run in runs]
    of_plain = [run.figures() for run in plain]
    return {
        "cpu_ratio": ratio(_each(figures, "tokens_per_cpu_s"), _each(of_plain, "tokens_per_cpu_s")),
        "wall_ratio": ratio(_each(figures, "tokens_per_s"), _each(of_plain, "tokens_per_s")),
        "same_answers": same,
        "runs": figures,
    }


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """The median of the ratios round by round, and its interval."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    low, high = median_interval(ratios)
    return {"median": statistics.median(ratios), "low": low, "high": high}


def verdict(measured: Mapping[str, float]) -> str:
    """What an interval says: slower or faster only where all of it lies on one side of 1."""
    if measured["high"] < 1.0:
        return "slower"
    return "faster" if measured["low"] > 1.0 else "as fast"


def _each(figures: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [run[name] for run in figures]


def by_stratum(cores: Mapping[str, EngineCore], model: Path, number: int, rounds: int) -> dict[str, dict[str, Any]]:
    """What drafts come to in each stratum, one question at a time."""
    return {
        stratum: compare(cores, questions(model, (stratum,), number, first=100), 1, rounds, warm_ups=1)
        for stratum in (*FORMULAIC, *FREE)
    }


def table(figures: Mapping[str, Mapping[Any, Mapping[str, Any]]]) -> Table:
    """Ratios by text and batch."""
    columns = ("tokens per CPU s", "over off", "by the clock", "tokens per step", "stood", "it is")
    shown = Table("text", "batch", "mode", *columns)
    for text, batches in figures.items():
        for batch, modes in batches.items():
            for mode, measured in modes.items():
                shown.add_row(text, str(batch), mode, *_shown(measured), verdict(measured["cpu_ratio"]))
    return shown


def _shown(measured: Mapping[str, Any]) -> tuple[str, ...]:
    runs = measured["runs"]
    stood = [run["acceptance"] for run in runs if run["acceptance"] is not None]
    return (
        f"{statistics.median(_each(runs, 'tokens_per_cpu_s')):.0f}",
        _with_interval(measured["cpu_ratio"]),
        _with_interval(measured["wall_ratio"]),
        f"{statistics.median(_each(runs, 'tokens_per_step')):.2f}",
        f"{statistics.median(stood):.0%}" if stood else "-",
    )


def _with_interval(measured: Mapping[str, float]) -> str:
    return f"{measured['median']:.2f} ({measured['low']:.2f} to {measured['high']:.2f})"


def ratios(figures: Mapping[str, Mapping[Any, Mapping[str, Any]]]) -> dict[str, str]:
    """Every ratio by CPU time, with its interval."""
    return {
        f"{text}, batch {batch}, {mode}": _with_interval(measured["cpu_ratio"])
        for text, batches in figures.items()
        for batch, modes in batches.items()
        for mode, measured in modes.items()
        if mode != "off"
    }


def main() -> None:
    """Measure, print, publish."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    arguments.add_argument("--max-drafts", type=int, default=8)
    arguments.add_argument("--threads", type=int)
    arguments.add_argument("--kernels", default="auto")
    arguments.add_argument("--strata-rounds", type=int, default=6)
    options = arguments.parse_args()
    model = amuse.path()
    settings = {"max_drafts": options.max_drafts, "threads": options.threads, "kernels": options.kernels}
    cores = engines(model, amuse.path("draft"), max(options.batches), **settings)
    texts: dict[str, dict[int, dict[str, Any]]] = {}
    for text, strata in (("formulaic", FORMULAIC), ("free", FREE)):
        texts[text] = {}
        for batch in options.batches:
            prompts = questions(model, strata, max(_LEAST_REQUESTS, 3 * batch))
            texts[text][batch] = compare(cores, prompts, batch, options.rounds)
    of_stratum = {} if not options.strata_rounds else by_stratum(cores, model, _STRATUM_REQUESTS, options.strata_rounds)
    figures = {**texts, **{stratum: {1: modes} for stratum, modes in of_stratum.items()}}
    Console(width=140).print(table(figures))
    settings |= {"batches": options.batches, "rounds": options.rounds, "strata_rounds": options.strata_rounds}
    runs = {text: {str(batch): modes for batch, modes in batches.items()} for text, batches in figures.items()}
    publish("speculation", {"settings": settings, "ratios": ratios(figures), "runs": runs})


if __name__ == "__main__":
    main()
