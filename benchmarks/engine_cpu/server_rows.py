"""The rows without a peer: over HTTP against the same engine offline, and from nothing to a first token."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.engine_cpu import models
from benchmarks.engine_cpu.rows import Verdict
from benchmarks.engine_cpu.worker import prompts
from conformance.server import serving
from servery.bench.options import BenchOptions, LoadOptions, TargetOptions, WorkOptions
from servery.bench.run import measure as bench
from servery.bench.span import Span

STREAMS, PROMPT_TOKENS, ANSWER_TOKENS = 32, 64, 192
# Answers of each client, one after the other.
TURNS = 3
START_S = 2.0


def http(cache: Path, cores: Sequence[int], rounds: int) -> list[Verdict]:
    """Tokens per second of 32 streams, of `servery bench` against a server and of `LLM.generate`, both with one thread.

    The server and the clients have the other cores; offline there is nothing for these to do.
    """
    model = str(models.checkpoint(cache, "amuse"))
    given = prompts(STREAMS, PROMPT_TOKENS, 1500)
    order = {"model": model, "prompts": given, "tokens": ANSWER_TOKENS, "threads": 1, "rounds": rounds}
    with _pinned(cores):
        offline = _run({"do": "offline", **order})["rates"]
        served = asyncio.run(_served(model))
    ratio = served / statistics.median(offline)
    spread = served / max(offline), served / min(offline)
    return [
        Verdict(
            "http",
            "HTTP, 32 streams, amuse",
            "offline",
            "LLM.generate",
            served,
            statistics.median(offline),
            ratio,
            spread,
            0.9,
        )
    ]


async def _served(model: str) -> float:
    """Tokens per second while all clients are busy."""
    with serving(f"amuse={model}", "--threads", "1", "--max-running", str(STREAMS), "--no-prefix-cache") as server:
        report = await bench(
            BenchOptions(
                target=TargetOptions(url=server.url),
                work=WorkOptions(
                    prompt_tokens=Span(PROMPT_TOKENS, PROMPT_TOKENS), output_tokens=Span(ANSWER_TOKENS, ANSWER_TOKENS)
                ),
                load=LoadOptions(requests=TURNS * STREAMS, warmup=STREAMS, concurrency=STREAMS),
                measures_bandwidth=False,
            )
        )
    if report.summary.errors:
        raise RuntimeError(f"requests failed: {report.summary.error_examples}")
    return report.summary.throughput.output_tokens


def start_up(cache: Path, cores: Sequence[int], rounds: int) -> list[Verdict]:
    """Seconds from a new process's imported engine to the first token of the 473M model, its files in the page cache."""
    order = {"do": "first_token", "model": str(models.checkpoint(cache, "large")), "threads": 1, "dtype": "bfloat16"}
    with _pinned(cores):
        seen = [_run(order) for _ in range(1 + rounds)][1:]  # the first brings the files into memory
    took = [each["load_s"] + each["first_token_s"] for each in seen]
    whole = statistics.median(each["import_s"] for each in seen) + statistics.median(took)
    return [
        Verdict(
            "start-up",
            f"start-up, 946 MB, seconds ({whole:.2f} with imports)",
            "limit",
            f"{START_S:.0f} s",
            statistics.median(took),
            START_S,
            START_S / statistics.median(took),
            (START_S / max(took), START_S / min(took)),
            1.0,
        )
    ]


@contextmanager
def _pinned(cores: Sequence[int]) -> Iterator[None]:
    """This process and those that it starts keep to some cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _run(order: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.engine_cpu.offline_worker", json.dumps(order)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - its own commands
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


KEYS: dict[str, Callable[[Path, Sequence[int], int], list[Verdict]]] = {"http": http, "start-up": start_up}
