"""What a batch in the background does to interactive requests: their time to the first token with it and without.

One engine answers the same interactive requests, which arrive at random moments (Poisson), once with nothing else to do
and once with a batch that never ends; blocks of both take turns. Time counts from the moment of arrival, so a request
that comes while a step of the batch runs waits for its end.

python -m benchmarks.batch_lane [--model DIRECTORY] [--requests 200] [--rate 8] [--batch 16]
"""

import argparse
import random
import statistics
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.result import ceiling, interleaved, median_ratio, publish
from servery import amuse
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.request import BACKGROUND, NewRequest, SamplingParams

BLOCK = 20  # interactive requests in a row under the same condition
CONDITIONS = ("alone", "beside a batch")


class Lane:
    """An engine with interactive requests that arrive by a schedule, and perhaps a batch."""

    def __init__(self, core: EngineCore, prompt_tokens: int, output_tokens: int, batch: int, seed: int) -> None:
        self._core = core
        self._prompt_tokens = prompt_tokens
        self._output_tokens = output_tokens
        self._batch = batch
        self._random = random.Random(seed)
        self._number = 0

    def block(self, gaps_s: list[float], *, has_batch: bool) -> tuple[list[float], float]:
        """Seconds to the first token of requests with these gaps between them, and the batch's tokens per second."""
        core, began, arrival_s = self._core, perf_counter(), 0.0
        arrivals = {}
        for gap_s in gaps_s:
            arrival_s += gap_s
            arrivals[self._new_id("chat")] = arrival_s
        waiting = list(arrivals.items())
        first: dict[str, float] = {}
        under_way: set[str] = set()
        in_batch: set[str] = set()
        batch_tokens = 0
        while waiting or under_way:
            now_s = perf_counter() - began
            while waiting and waiting[0][1] <= now_s:
                request_id, _ = waiting.pop(0)
                under_way.add(request_id)
                self._add(request_id, 0)
            while has_batch and len(in_batch) < self._batch:
                in_batch.add(batch_id := self._new_id("batch"))
                self._add(batch_id, BACKGROUND)
            if not core.has_work:
                sleep(max(0.0, waiting[0][1] - now_s))
                continue
            for output in core.step():
                if output.request_id in in_batch:
                    batch_tokens += len(output.token_ids)
                elif output.token_ids:
                    first.setdefault(output.request_id, perf_counter() - began)
                if output.finish_reason is not None:
                    under_way.discard(output.request_id)
                    in_batch.discard(output.request_id)
        for batch_id in in_batch:
            core.abort(batch_id)
        took_s = perf_counter() - began
        return [first[request_id] - arrived_s for request_id, arrived_s in arrivals.items()], batch_tokens / took_s

    def _add(self, request_id: str, priority: int) -> None:
        prompt = [self._random.randrange(5, 1_000) for _ in range(self._prompt_tokens)]
        params = SamplingParams(max_tokens=self._output_tokens, temperature=0.0, ignore_eos=True)
        self._core.add(NewRequest(request_id=request_id, prompt=prompt, params=params, priority=priority), seed=0)

    def _new_id(self, kind: str) -> str:
        self._number += 1
        return f"{kind}-{self._number}"


def measure(lane: Lane, requests: int, rate: float, seed: int) -> dict[str, Any]:
    """Blocks of both conditions in turns; every pair of blocks has the same gaps."""
    draw = random.Random(seed)
    blocks = [[draw.expovariate(rate) for _ in range(BLOCK)] for _ in range(requests // BLOCK)]
    ttfts: dict[str, list[float]] = {name: [] for name in CONDITIONS}
    rates: list[float] = []
    for number, name in interleaved(CONDITIONS, len(blocks)):
        found, tokens_per_s = lane.block(blocks[number], has_batch=name == CONDITIONS[1])
        ttfts[name] += found
        if name == CONDITIONS[1]:
            rates.append(tokens_per_s)
    return {"runs": ttfts, "batch_tokens_per_s": statistics.median(rates)}


def percentiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(seconds)
    return {f"p{p}": 1e3 * ordered[min(len(ordered) - 1, p * len(ordered) // 100)] for p in (50, 95, 99)}


def main() -> None:
    """Measure, print, publish."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, help="directory of a checkpoint; else amuse")
    arguments.add_argument("--requests", type=int, default=200)
    arguments.add_argument("--rate", type=float, default=4.0, help="interactive requests per second")
    arguments.add_argument("--prompt-tokens", type=int, default=200)
    arguments.add_argument("--output-tokens", type=int, default=16)
    arguments.add_argument("--batch", type=int, default=16, help="requests of the batch at a time")
    arguments.add_argument("--threads", type=int)
    options = arguments.parse_args()
    model = options.model or amuse.path()
    core = EngineCore(EngineConfig(model=model, threads=options.threads, kv_memory_bytes=64 << 20))
    lane = Lane(core, options.prompt_tokens, options.output_tokens, options.batch, seed=1)
    lane.block([0.0] * 5, has_batch=True)  # warm up
    figures = measure(lane, options.requests, options.rate, seed=2)
    shown = {name: percentiles(seconds) for name, seconds in figures["runs"].items()}
    ratio = median_ratio(figures["runs"][CONDITIONS[1]], figures["runs"][CONDITIONS[0]])
    table = Table("interactive requests", "TTFT p50 ms", "p95 ms", "p99 ms")
    for name, values in shown.items():
        table.add_row(name, *(f"{value:.1f}" for value in values.values()))
    console = Console()
    console.print(table)
    console.print(
        f"with over without: {ratio['median']:.2f}x; the batch got {figures['batch_tokens_per_s']:.0f} tokens/s"
    )
    settings = {name: value for name, value in vars(options).items() if name != "model"}
    publish("batch_lane", {"settings": settings, "bandwidth": ceiling(), "ttft_ms": shown, "ratio": ratio, **figures})


if __name__ == "__main__":
    main()
