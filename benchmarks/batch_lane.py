"""What a batch in the background does to interactive requests: their time to the first token beside it and alone.

One server answers the same interactive chats, which arrive at random moments (Poisson), once with nothing else to do
and once beside a batch that never ends. The two take turns, block by block, each pair of blocks with the same moments
and with prompts of the same length, so that each request has its like; which comes first changes every time.
Time counts at the client, from before it sends to the first event with text. A batch has answered its first requests
before its block begins, and has ended before the next one.

python -m benchmarks.batch_lane [--model DIRECTORY] [--pairs 20] [--requests 12] [--rate 8] [--threads 1]
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import openai
from rich.console import Console
from rich.table import Table

from benchmarks.result import ceiling, interleaved, median_interval, publish
from conformance.server import serving
from servery.bench.address import Address
from servery.bench.client import Client
from servery.bench.prompts import Messages, PromptMaker, token_counter
from servery.bench.sample import Sample, ask

CONDITIONS = ("alone", "beside a batch")
# More than a block can see the end of.
BATCH_LINES = 4000
BATCH_TOKENS = 64
PAUSE_S = 0.05


class Lane:
    """A server with chats that arrive by a schedule, and perhaps a batch."""

    def __init__(self, url: str, model: str, output_tokens: int) -> None:
        self._address = Address.parse(url)
        self._model = model
        self._output_tokens = output_tokens
        self._openai = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self._idle: list[Client] = []
        self._file_id = ""

    def upload(self, prompts: Sequence[Messages]) -> None:
        """Leave the file that batches are made of."""
        lines = [_line(number, self._model, prompts[number % len(prompts)]) for number in range(BATCH_LINES)]
        self._file_id = self._openai.files.create(file=("batch.jsonl", "".join(lines).encode()), purpose="batch").id

    async def block(self, gaps_s: Sequence[float], prompts: Sequence[Messages]) -> list[float]:
        """Seconds to the first token of a chat with each of these prompts, with these gaps between them."""
        began, arrival_s = perf_counter(), 0.0
        asking = []
        for gap_s, messages in zip(gaps_s, prompts, strict=True):
            arrival_s += gap_s
            await asyncio.sleep(max(0.0, began + arrival_s - perf_counter()))
            asking.append(asyncio.create_task(self._ask(messages)))
        return [_ttft_s(sample) for sample in await asyncio.gather(*asking)]

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[list[float]]:
        """Inside, a batch runs; the list has then its answers per second, paused or not."""
        rate: list[float] = []
        batch_id = self._openai.batches.create(
            input_file_id=self._file_id, endpoint="/v1/chat/completions", completion_window="24h"
        ).id
        self._wait(lambda: self._answered(batch_id) > 0)
        before, began = self._answered(batch_id), perf_counter()
        yield rate
        rate.append((self._answered(batch_id) - before) / (perf_counter() - began))
        self._openai.batches.cancel(batch_id)
        self._wait(lambda: self._openai.batches.retrieve(batch_id).status == "cancelled")

    def close(self) -> None:
        """Close the connections."""
        for client in self._idle:
            client.close()
        self._openai.close()

    async def _ask(self, messages: Messages) -> Sample:
        client = self._idle.pop() if self._idle else Client(self._address)
        options = {"max_tokens": self._output_tokens, "temperature": 0.0, "ignore_eos": True}
        sample = await ask(client, {"model": self._model, "messages": messages, **options})
        self._idle.append(client)
        return sample

    def _wait(self, is_over: Callable[[], bool]) -> None:
        """Look until it is; nothing else has to run meanwhile."""
        while not is_over():
            sleep(PAUSE_S)

    def _answered(self, batch_id: str) -> int:
        counts = self._openai.batches.retrieve(batch_id).request_counts
        return 0 if counts is None else counts.completed


def _line(number: int, model: str, messages: Messages) -> str:
    said = [{"role": "user", "content": f"{number}. {messages[0]['content']}"}]  # no two lines share a prefix
    body = {"model": model, "messages": said, "max_tokens": BATCH_TOKENS, "ignore_eos": True}
    line = {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line) + "\n"


def _ttft_s(sample: Sample) -> float:
    if sample.ttft_s is None:
        raise SystemExit(f"a chat got no answer: {sample.error}")
    return sample.ttft_s


async def measure(
    lane: Lane, make: Callable[[], Awaitable[Messages]], pairs: int, requests: int, rate: float, seed: int
) -> dict[str, Any]:
    """Blocks of both conditions in turns: their times, their ratio, and the batch's pace."""
    draw = random.Random(seed)
    gaps_s = [[draw.expovariate(rate) for _ in range(requests)] for _ in range(pairs)]
    ttfts_s: dict[str, list[list[float]]] = {name: [] for name in CONDITIONS}
    paces: list[float] = []
    for number, name in interleaved(CONDITIONS, pairs):
        prompts = [await make() for _ in range(requests)]
        if name == CONDITIONS[0]:
            ttfts_s[name].append(await lane.block(gaps_s[number], prompts))
            continue
        async with lane.batch() as pace:
            ttfts_s[name].append(await lane.block(gaps_s[number], prompts))
        paces += pace
    return {"runs": ttfts_s, "ratio": ratio(*ttfts_s.values()), "batch_answers_per_s": statistics.median(paces)}


def ratio(alone_s: Sequence[Sequence[float]], beside_s: Sequence[Sequence[float]]) -> dict[str, float]:
    """The median of beside over alone, request by request, and between what it truly lies with 95 % probability."""
    ratios = [
        b / a for alone, beside in zip(alone_s, beside_s, strict=True) for a, b in zip(alone, beside, strict=True)
    ]
    low, high = median_interval(ratios)
    return {"median": statistics.median(ratios), "low": low, "high": high}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(seconds)
    return {f"p{p}": 1e3 * ordered[min(len(ordered) - 1, p * len(ordered) // 100)] for p in (50, 95, 99)}


async def run(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of a server that runs."""
    client = Client(Address.parse(url))
    model = await client.first_model()
    maker = PromptMaker(await token_counter(client, model), 0, 1)

    async def make() -> Messages:
        return await maker.make(options.prompt_tokens)

    lane = Lane(url, model, options.output_tokens)
    try:
        lane.upload([await make() for _ in range(200)])
        warm = [await make() for _ in range(8)]
        async with lane.batch():
            await lane.block([0.05] * len(warm), warm)
        await lane.block([0.05] * len(warm), warm)
        return await measure(lane, make, options.pairs, options.requests, options.rate, maker.seed)
    finally:
        lane.close()
        client.close()


def main() -> None:
    """Serve, measure, print, publish."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, help="directory of a checkpoint; else amuse")
    arguments.add_argument("--pairs", type=int, default=20)
    arguments.add_argument("--requests", type=int, default=12, help="interactive requests of a block")
    arguments.add_argument("--rate", type=float, default=8.0, help="interactive requests per second")
    arguments.add_argument("--prompt-tokens", type=int, default=200)
    arguments.add_argument("--output-tokens", type=int, default=16)
    arguments.add_argument("--threads", type=int)
    options = arguments.parse_args()
    server = [] if options.model is None else [str(options.model)]
    server += [] if options.threads is None else ["--threads", str(options.threads)]
    with tempfile.TemporaryDirectory() as folder, serving(*server, "--files", folder) as served:
        figures = asyncio.run(run(served.url, options))
    shown = {name: percentiles([each for block in runs for each in block]) for name, runs in figures["runs"].items()}
    table = Table("interactive requests", "TTFT p50 ms", "p95 ms", "p99 ms")
    for name, values in shown.items():
        table.add_row(name, *(f"{value:.1f}" for value in values.values()))
    console, found = Console(), figures["ratio"]
    console.print(table)
    console.print(
        f"TTFT beside a batch over alone: {found['median']:.3f}x ({found['low']:.3f} to {found['high']:.3f} with 95 %); "
        f"the batch got {figures['batch_answers_per_s']:.1f} answers/s meanwhile"
    )
    settings = {name: value for name, value in vars(options).items() if name != "model"}
    publish("batch_lane", {"settings": settings, "bandwidth": ceiling(), "ttft_ms": shown, **figures})


if __name__ == "__main__":
    main()
