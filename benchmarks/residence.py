"""What a model that sleeps gives back, and how long it takes to be there again: at level 1, at level 2, and at first.

Each round starts an engine, answers a prompt, sleeps and wakes at level 1 twice (the first sleep writes the weights to a
file, the second has nothing to write), then ends the process and starts it again, as level 2 does. Memory is what is
resident of the engine's process. After each wake the same prompt must get the same answer.

python -m benchmarks.residence [--model DIRECTORY] [--rounds 3]
"""

import argparse
import asyncio
import os
import statistics
from collections.abc import Awaitable
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.result import publish
from servery import amuse
from servery.byte_size import format_byte_size
from servery.engine.config import EngineConfig
from servery.engine.engine import AsyncEngine
from servery.engine.request import NewRequest, SamplingParams

PROMPT = list(range(5, 69))
TIMES = ("load_s", "first_sleep_s", "sleep_s", "wake_s", "end_s", "load_again_s")


async def timed(work: Awaitable[Any]) -> float:
    """Seconds that it takes."""
    began = perf_counter()
    await work
    return perf_counter() - began


def resident_bytes(engine: AsyncEngine) -> int:
    """The memory of its process."""
    pages = int(Path(f"/proc/{engine.info.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def answer(engine: AsyncEngine) -> list[int]:
    """The greedy answer to the prompt."""
    params = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)
    request = NewRequest(request_id="r", prompt=PROMPT, params=params)
    return [token async for output in engine.generate(request) for token in output.token_ids]


async def round_of(config: EngineConfig) -> dict[str, float]:
    """One engine's comings and goings; raises `SystemExit` if an answer changes."""
    engine = AsyncEngine(config)
    figures = {"load_s": await timed(engine.start())}
    answers = [await answer(engine)]
    figures["awake_bytes"] = resident_bytes(engine)
    figures["first_sleep_s"] = await timed(engine.sleep())
    figures["asleep_bytes"] = resident_bytes(engine)
    await engine.wake()
    answers.append(await answer(engine))
    figures["sleep_s"] = await timed(engine.sleep())
    figures["wake_s"] = await timed(engine.wake())
    answers.append(await answer(engine))
    figures["end_s"] = await timed(engine.stop())
    figures["load_again_s"] = await timed(engine.start())
    answers.append(await answer(engine))
    figures["weight_bytes"] = engine.info.weight_bytes
    await engine.stop()
    if any(each != answers[0] for each in answers):
        raise SystemExit(f"the answers differ: {answers}")
    return figures


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of every figure."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def table(figures: dict[str, float]) -> Table:
    """Memory, and times in milliseconds."""
    shown = Table("what", "median")
    for name in ("weight_bytes", "awake_bytes", "asleep_bytes"):
        shown.add_row(name.replace("_", " "), format_byte_size(int(figures[name])))
    for name in TIMES:
        shown.add_row(f"{name.removesuffix('_s').replace('_', ' ')} ms", f"{1e3 * figures[name]:.0f}")
    return shown


def main() -> None:
    """Measure, print, publish."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, help="directory of a checkpoint; else amuse")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--threads", type=int)
    options = arguments.parse_args()
    config = EngineConfig(model=options.model or amuse.path(), threads=options.threads, kv_memory_bytes=64 << 20)
    runs = [asyncio.run(round_of(config)) for _ in range(options.rounds)]
    figures = medians(runs)
    Console().print(table(figures))
    publish("residence", {"settings": {"rounds": options.rounds}, "medians": figures, "runs": runs})


if __name__ == "__main__":
    main()
