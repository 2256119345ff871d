"""Continuous batching against static batching and one request at a time, on the same engine with mixed lengths of answers.

All requests are there at the start; answers are 10 to 500 tokens (log-uniform), prompts 16 to 64. Static batching takes
B requests, runs them until the longest is finished, then takes the next B. Usually it computes rows that are finished until
then, for nothing ("padded"); "static" has the advantage of this engine's ragged steps, in which they cost nothing. Policies
take turns, so that ratios hold although the machine is shared; where it is, those of CPU time are the steadier ones (all threads
together, without the time that others had the cores). KV waste: allocated slots that hold no token's KV, summed over the
steps of continuous batching in which nobody prefills, beside what contiguous reservations would waste at the same moments.

python -m benchmarks.continuous_batching [--model DIRECTORY] [--rounds 3] [--requests 96] [--batch 16]
"""

import argparse
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.result import ceiling, interleaved, median_ratio, publish
from servery import amuse
from servery.bench.lengths import Lengths
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.request import NewRequest, SamplingParams

PROMPT = (16, 64)


@dataclass(frozen=True, slots=True)
class LogUniform:
    """Lengths whose logarithm is evenly drawn."""

    shortest: int
    longest: int

    def draw(self, source: random.Random) -> int:
        """One length."""
        return round(math.exp(source.uniform(math.log(self.shortest), math.log(self.longest))))


ANSWERS = LogUniform(10, 500)


@dataclass(slots=True)
class Slots:
    """KV positions summed over steps: allocated in blocks, holding KV, and what contiguous schemes would reserve."""

    allocated: int = 0
    used: int = 0
    known_length: int = 0
    context_length: int = 0

    def waste_percent(self) -> dict[str, float]:
        """Per cent of the reserved positions that hold nothing."""
        reserved = {
            "paged": self.allocated,
            "contiguous, answer length known": self.known_length,
            "contiguous, context length": self.context_length,
        }
        return {name: 100 * (1 - self.used / count) for name, count in reserved.items() if count}


@dataclass(slots=True)
class Load:
    """Runs requests on a core and counts what comes; times are from the start of the whole load."""

    core: EngineCore
    slots: Slots | None = None
    began: float = field(default_factory=perf_counter)
    tokens: int = 0
    finished_s: list[float] = field(default_factory=list)
    _alive: dict[str, tuple[NewRequest, int]] = field(default_factory=dict)

    def run(self, requests: Sequence[NewRequest], unwanted: int = 0) -> None:
        """Compute all of `requests` together, to the end; so many of their tokens nobody wants."""
        for request in requests:
            self.core.add(request, seed=0)
        self.tokens -= unwanted
        while self.core.has_work:
            self._step({request.request_id: request for request in requests})

    def _step(self, requests: dict[str, NewRequest]) -> None:
        for output in self.core.step():
            generated = self._alive.get(output.request_id, (requests[output.request_id], 0))[1] + len(output.token_ids)
            self._alive[output.request_id] = (requests[output.request_id], generated)
            self.tokens += len(output.token_ids)
            if output.finish_reason is not None:
                del self._alive[output.request_id]
                self.finished_s.append(perf_counter() - self.began)
        if self.slots is not None:
            self._count_slots(self.slots)

    def _count_slots(self, slots: Slots) -> None:
        scheduler = self.core.scheduler.stats()
        if scheduler.running != len(self._alive):
            return  # some have no token yet: how much of their KV is written is not known here
        slots.allocated += scheduler.held_blocks * self.core.info.block_size
        for request, generated in self._alive.values():
            slots.used += len(request.prompt) + generated - 1  # the newest token's KV is written by the next step
            slots.known_length += len(request.prompt) + answer_length(request)
            slots.context_length += self.core.info.max_model_len


Policy = Callable[[Load, Sequence[NewRequest]], None]


def policies(batch: int) -> dict[str, Policy]:
    """How requests are put together, by name."""

    def static(load: Load, requests: Sequence[NewRequest]) -> None:
        for start in range(0, len(requests), batch):
            load.run(requests[start : start + batch])

    def padded(load: Load, requests: Sequence[NewRequest]) -> None:
        for start in range(0, len(requests), batch):
            wanted = requests[start : start + batch]
            rectangle = stretched(wanted)
            load.run(rectangle, sum(map(answer_length, rectangle)) - sum(map(answer_length, wanted)))

    def one_at_a_time(load: Load, requests: Sequence[NewRequest]) -> None:
        for request in requests:
            load.run([request])

    return {"continuous": Load.run, "static": static, "static, padded": padded, "one at a time": one_at_a_time}


def stretched(requests: Sequence[NewRequest]) -> list[NewRequest]:
    """The same, with answers that are all as long as the longest."""
    longest = max(map(answer_length, requests))
    params = SamplingParams(max_tokens=longest, temperature=0.0, ignore_eos=True)
    return [NewRequest(request_id=each.request_id, prompt=each.prompt, params=params) for each in requests]


def answer_length(request: NewRequest) -> int:
    """Tokens of its answer."""
    return request.params.max_tokens or 0


def workload(number: int, vocab_size: int, seed: int = 0, answers: Lengths = ANSWERS) -> list[NewRequest]:
    """Requests with random prompts, whatever the model would say."""
    source = random.Random(seed)
    requests = []
    for index in range(number):
        length = answers.draw(source)
        prompt = [source.randrange(vocab_size) for _ in range(source.randint(*PROMPT))]
        params = SamplingParams(max_tokens=length, temperature=0.0, ignore_eos=True)
        requests.append(NewRequest(request_id=str(index), prompt=prompt, params=params))
    return requests


def measure(
    core: EngineCore,
    requests: Sequence[NewRequest],
    chosen: Mapping[str, Policy],
    rounds: int,
    budget_s: float = math.inf,
) -> dict[str, Any]:
    """The policies in turns, as many rounds as there is time for."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    slots = Slots()
    for _, name in interleaved(tuple(runs), rounds, budget_s):
        before, cpu_before = core.stats(), process_time()
        load = Load(core, slots if name == "continuous" else None)
        chosen[name](load, requests)
        wall_s, cpu_s, after = perf_counter() - load.began, process_time() - cpu_before, core.stats()
        runs[name].append(
            {
                "wall_s": wall_s,
                "cpu_s": cpu_s,
                "tokens_per_s": load.tokens / wall_s,
                "tokens_per_cpu_s": load.tokens / cpu_s,
                "mean_finish_s": statistics.fmean(load.finished_s),
                "steps": after.steps - before.steps,
                "mean_batch": load.tokens / (after.steps - before.steps),
                "read_bytes_per_s": (after.read_bytes - before.read_bytes) / (after.step_s - before.step_s),
            }
        )
    return {"runs": runs, "kv_waste_percent": slots.waste_percent()}


def padded_rows_per_token(requests: Sequence[NewRequest], batch: int) -> float:
    """Rows that static batching with padding, which computes every row until the longest ends, takes per useful token."""
    lengths = list(map(answer_length, requests))
    batches = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    return sum(max(of_batch) * len(of_batch) for of_batch in batches) / sum(lengths)


def compare(runs: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Continuous batching over each of the others: throughput, and how much earlier the mean answer is there."""
    ratios = {}
    for name in (each for each in runs if each != "continuous"):
        ratios[name] = {
            "throughput": median_ratio(_of("continuous", "tokens_per_s", runs), _of(name, "tokens_per_s", runs)),
            "cpu_throughput": median_ratio(
                _of("continuous", "tokens_per_cpu_s", runs), _of(name, "tokens_per_cpu_s", runs)
            ),
            "mean_finish": median_ratio(_of(name, "mean_finish_s", runs), _of("continuous", "mean_finish_s", runs)),
        }
    return ratios


def _of(name: str, figure: str, runs: dict[str, list[dict[str, float]]]) -> list[float]:
    return [run[figure] for run in runs[name]]


def table(figures: dict[str, Any]) -> Table:
    """Medians per policy."""
    shown = Table("", "tokens/s", "per CPU s", "mean finish s", "rows/step", "GB/s", "MBU", "continuous over it")
    for name, runs in figures["runs"].items():
        median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        ratio = figures["ratios"].get(name)
        shown.add_row(
            name,
            f"{median['tokens_per_s']:.0f}",
            f"{median['tokens_per_cpu_s']:.0f}",
            f"{median['mean_finish_s']:.2f}",
            f"{median['mean_batch']:.1f}",
            f"{median['read_bytes_per_s'] / 1e9:.2f}",
            f"{median['read_bytes_per_s'] / figures['bandwidth']['best_bytes_per_s']:.1%}",
            f"{ratio['throughput']['median']:.2f} x ({ratio['cpu_throughput']['median']:.2f} x CPU)" if ratio else "-",
        )
    return shown


def main() -> None:
    """Measure, print, publish."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, help="directory of a checkpoint; else amuse")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--requests", type=int, default=96)
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--threads", type=int)
    options = arguments.parse_args()
    core = EngineCore(
        EngineConfig(
            model=options.model or amuse.path(),
            max_running=options.batch,
            prefix_cache=False,  # a second round must not find what the first one computed
            threads=options.threads,
        )
    )
    requests = workload(options.requests, core.info.vocab_size)
    Load(core).run(workload(options.batch, core.info.vocab_size, seed=1)[: options.batch // 2])  # warm up
    figures = {"bandwidth": ceiling(), **measure(core, requests, policies(options.batch), options.rounds)}
    figures["ratios"] = compare(figures["runs"])
    figures["padded_rows_per_token"] = padded_rows_per_token(requests, options.batch)
    console = Console(width=120)
    console.print(table(figures))
    padded = figures["padded_rows_per_token"]
    console.print(f"static batching with padding computes {padded:.2f} rows per token that somebody wants")
    for name, waste in figures["kv_waste_percent"].items():
        console.print(f"KV slots allocated and empty, {name}: {waste:.1f} %")
    settings = {"requests": options.requests, "batch": options.batch, "block_size": core.info.block_size}
    publish("continuous_batching", {"settings": settings, "threads": core.info.threads, **figures})


if __name__ == "__main__":
    main()
