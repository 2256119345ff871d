"""What streaming does for who waits: the same answers streamed and whole, through a server."""

import asyncio
import statistics
from contextlib import aclosing
from time import perf_counter
from typing import Any

from benchmarks.claims.measurement import Figures, Measurement, Readings, ratio, spread
from benchmarks.claims.stage import Stage
from benchmarks.result import interleaved, median_ratio
from conformance.server import serving
from servery.bench.address import Address
from servery.bench.client import Client
from servery.bench.page.axis import Axis
from servery.bench.page.plot import Plot

STREAMED, WHOLE = "streamed", "whole"
MODELS = ("148M", "amuse")


def _measure(stage: Stage) -> dict[str, Any]:
    tokens = stage.pick(200, 6)
    paths = {"148M": stage.grown, "amuse": stage.amuse}
    found = {}
    for name in MODELS:
        with serving(f"model={paths[name]}", "--no-prefix-cache") as server:
            found[name] = asyncio.run(_answers(server.url, tokens, stage.pick(8, 1)))
    return {"tokens": tokens, "models": found}


async def _answers(url: str, tokens: int, rounds: int) -> dict[str, Any]:
    client = Client(Address.parse(url))
    request = {
        "model": "model",
        "messages": [{"role": "user", "content": "Tell me a story about a fox who wants to cross a river."}],
        "max_tokens": tokens,
        "temperature": 0.0,
        "ignore_eos": True,
    }
    runs: dict[str, list[Any]] = {STREAMED: [], WHOLE: []}
    try:
        await streamed(client, request)  # warm up
        for _, name in interleaved((STREAMED, WHOLE), rounds, 45.0):
            runs[name].append(await (streamed if name == STREAMED else whole)(client, request))
    finally:
        client.close()
    return runs


async def streamed(client: Client, request: dict[str, Any]) -> list[float]:
    """Seconds at which pieces of the answer arrived, counted from the question."""
    began = perf_counter()
    async with aclosing(client.chat(request)) as deltas:
        return [delta.at - began async for delta in deltas if delta.text]


async def whole(client: Client, request: dict[str, Any]) -> float:
    """Seconds until the answer was there."""
    began = perf_counter()
    await client.post("chat/completions", request)
    return perf_counter() - began


def _readings(figures: Figures) -> Readings:
    tokens = figures["tokens"]
    seen = {name: (runs[STREAMED], runs[WHOLE]) for name, runs in figures["models"].items()}
    first = {name: [each[0] for each in streams] for name, (streams, _) in seen.items()}
    tpot = {
        name: [1e3 * (each[-1] - each[0]) / (tokens - 1) for each in streams] for name, (streams, _) in seen.items()
    }
    return {
        "ttft-500-ms": [spread(name, [1e3 * at for at in each]) for name, each in first.items()],
        "ttft-100-ms": [spread(name, [1e3 * at for at in each]) for name, each in first.items()],
        "tpot-50-ms": [spread(name, each) for name, each in tpot.items()],
        "streaming-70": [spread(name, saved_percent(first[name], waits)) for name, (_, waits) in seen.items()],
        "seconds-to-milliseconds": [
            ratio(_told(name, waits, first[name]), median_ratio(waits, first[name]))
            for name, (_, waits) in seen.items()
        ],
        "same-total": [
            ratio(name, median_ratio([each[-1] for each in streams], waits)) for name, (streams, waits) in seen.items()
        ],
    }


def saved_percent(first: list[float], waits: list[float]) -> list[float]:
    """How much sooner something is there than a whole answer, in per cent of the wait."""
    return [100 * (1 - at / wait) for at, wait in zip(first, waits, strict=True)]


def _told(name: str, waits: list[float], first: list[float]) -> str:
    return f"{name}, {statistics.median(waits):.2g} s to {1e3 * statistics.median(first):.0f} ms"


def _plots(figures: Figures) -> dict[str, Plot]:
    runs = figures["models"][MODELS[0]]
    arrivals = sorted(runs[STREAMED], key=lambda each: float(each[-1]))[len(runs[STREAMED]) // 2]
    wait = statistics.median(runs[WHOLE])
    share = [(at, 100 * (index + 1) / len(arrivals)) for index, at in enumerate(arrivals)]
    end = max(wait, arrivals[-1]) * 1.05
    plot = Plot(
        "What a user sees", "seconds since the question", "per cent of the answer", Axis(0.0, end), Axis(0.0, 105.0)
    )
    plot.steps([(0.0, 0.0), *share, (end, 100.0)], 1, "streamed")
    plot.steps([(0.0, 0.0), (wait, 100.0), (end, 100.0)], 2, "not streamed")
    return {"streaming": plot}


STREAMING = Measurement(
    "streaming",
    60.0,
    "`servery serve` and one client on this machine, answers of 200 tokens to a short question, one at a time.",
    _measure,
    _readings,
    _plots,
    is_served=True,
)
