"""What a step costs besides the model: scheduling, batching, sampling, messages and text, without anything computed.

The real engine process and the real server side of it run, with a model in between that answers at once: its logits
name the next letter, whatever was asked. Told is CPU time per step by process, for so many sequences that decode:
the engine's, during which no step is computed, and the server's (decoding messages, waking whoever waits, text), which
runs on a core of its own beside the next step. Sequences decode greedily, or with `--sampled` by chance with top_p.
Then, in this process, what each part of the same work takes (`benchmarks.host_parts`).

python -m benchmarks.host_overhead [--sequences 1,8,32,64,128] [--rounds 5] [--steps 400] [--sampled] [--profile FILE]
"""

import argparse
import asyncio
import contextlib
import cProfile
import dataclasses
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.host_parts import PARTS, parts
from benchmarks.result import interleaved, publish
from servery import amuse
from servery.engine import process as engine_process
from servery.engine.batch import Batch
from servery.engine.channel import decode_config
from servery.engine.completion import complete
from servery.engine.config import EngineConfig
from servery.engine.decoder import Decoder
from servery.engine.doorbell import Interruption
from servery.engine.engine import AsyncEngine
from servery.engine.kv import KVCache
from servery.engine.loaded_model import LoadedModel, load
from servery.engine.request import NewRequest, SamplingParams
from servery.engine.tokenizer import Tokenizer

# What is aimed at, per step of n sequences: FIXED_S + n * EACH_S.
FIXED_S, EACH_S = 100e-6, 3e-6
PROMPT_TOKENS = 32
_PROFILE = "SERVERY_PROFILE"


class InstantModel:
    """Stands for a decoder: hidden states and logits that were made beforehand, whatever the batch."""

    def __init__(self, model: Decoder) -> None:
        self.config, self.dtype = model.config, model.dtype
        self.weight_bytes = model.weight_bytes
        self._hidden = torch.zeros(4096, 1)
        # About as sure of the next token as a model of language: two thirds of the mass on ten tokens.
        self._logits = 4 * torch.randn(256, model.config.vocab_size, generator=torch.Generator().manual_seed(0))

    def forward(self, batch: Batch, cache: KVCache, interruption: Interruption | None = None) -> Tensor:
        """Rows for the batch's tokens."""
        return self._hidden[: len(batch.input_ids)]

    def logits(self, hidden: Tensor) -> Tensor:
        """The same rows every time."""
        return self._logits[: len(hidden)]

    def read_bytes(self, num_tokens: int) -> int:
        """As if all were read."""
        return self.weight_bytes


def instantly(really: Callable[..., LoadedModel]) -> Callable[..., LoadedModel]:
    """A way to load a model of which only the shape is used."""

    def loaded(*arguments: Any, **options: Any) -> LoadedModel:
        real = really(*arguments, **options)
        return dataclasses.replace(real, model=InstantModel(real.model))  # type: ignore[arg-type]

    return loaded


@dataclasses.dataclass(frozen=True, slots=True)
class PerStep:
    """CPU seconds of a step, by process."""

    engine_s: float
    server_s: float

    @property
    def total_s(self) -> float:
        """Of both."""
        return self.engine_s + self.server_s


def limit_s(sequences: int) -> float:
    """What is aimed at for a step of so many sequences."""
    return FIXED_S + sequences * EACH_S


def fitted(medians: dict[int, float]) -> tuple[float, float]:
    """Least squares of seconds over sequences: (fixed, for each sequence)."""
    each, fixed = statistics.linear_regression(list(medians), list(medians.values())) if len(medians) > 1 else (0, 0)
    return fixed, each


def cpu_s(pid: int) -> float:
    """CPU seconds that all threads of a process have taken, in nanoseconds' steps."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


async def measure(engine: AsyncEngine, tokenizer: Tokenizer, sequences: int, params: SamplingParams) -> PerStep:
    """The mean of the steps of so many sequences."""
    warm = [_finish(engine, tokenizer, params, f"w{number}", 8) for number in range(sequences)]
    await asyncio.gather(*warm)
    pids, steps = (engine.info.pid, os.getpid()), _steps(engine)
    before = [cpu_s(pid) for pid in pids]
    await asyncio.gather(
        *(_finish(engine, tokenizer, params, str(number), params.max_tokens) for number in range(sequences))
    )
    engine_s, server_s = (cpu_s(pid) - was for pid, was in zip(pids, before, strict=True))
    count = _steps(engine) - steps
    return PerStep(engine_s / count, server_s / count)


def _steps(engine: AsyncEngine) -> int:
    return 0 if engine.stats is None else engine.stats.steps


async def _finish(
    engine: AsyncEngine, tokenizer: Tokenizer, params: SamplingParams, name: str, tokens: int | None
) -> None:
    prompt = [ord(name[-1]) % 100 + at for at in range(PROMPT_TOKENS)]
    changed = {field: getattr(params, field) for field in params.__struct_fields__} | {"max_tokens": tokens}
    request = NewRequest(request_id=name, prompt=prompt, params=SamplingParams(**changed))
    async with contextlib.aclosing(complete(engine, request, tokenizer)) as deltas:
        async for _ in deltas:
            pass


def _params(options: argparse.Namespace) -> SamplingParams:
    return SamplingParams(
        max_tokens=options.steps,
        ignore_eos=True,
        seed=1,
        temperature=0.8 if options.sampled else 0.0,
        top_p=0.95 if options.sampled else 1.0,
    )


async def _measure_all(options: argparse.Namespace) -> dict[int, list[PerStep]]:
    params = _params(options)
    runs: dict[int, list[PerStep]] = {number: [] for number in options.sequences}
    engine = AsyncEngine(EngineConfig(model=amuse.path(), max_running=max(runs), threads=1))
    tokenizer = Tokenizer.load(amuse.path())
    with patch("servery.engine.core_process.ENGINE_MODULE", "benchmarks.host_overhead"):
        await engine.start()
    try:
        for _, name in interleaved([str(number) for number in runs], options.rounds):
            runs[int(name)].append(await measure(engine, tokenizer, int(name), params))
    finally:
        await engine.stop()
    return runs


def serve(fd: int, memory: int, config: str) -> int:
    """Be the engine process; with a file named by the environment, tell there where its time went."""
    with patch("servery.engine.core.load", instantly(load)):
        if not (profile := os.environ.get(_PROFILE)):
            return engine_process.main(fd, memory, decode_config(config))
        with cProfile.Profile() as profiler:
            status = engine_process.main(fd, memory, decode_config(config))
        profiler.dump_stats(profile)
        return status


def table(runs: Mapping[int, Sequence[PerStep]]) -> Table:
    """Medians, and what is aimed at."""
    shown = Table("sequences", "engine µs", "server µs", "both µs", "aim µs")
    for number, each in runs.items():
        medians = [
            statistics.median(getattr(run, name) for run in each) for name in ("engine_s", "server_s", "total_s")
        ]
        shown.add_row(str(number), *(f"{1e6 * seconds:.0f}" for seconds in (*medians, limit_s(number))))
    return shown


def parts_table(found: Mapping[int, Mapping[str, float]]) -> Table:
    """Each part's median, their sum, and what is aimed at."""
    shown = Table("sequences", *(f"{part} µs" for part in PARTS), "sum µs", "aim µs")
    for number, each in found.items():
        seconds = (*(each[part] for part in PARTS), sum(each.values()), limit_s(number))
        shown.add_row(str(number), *(f"{1e6 * one:.0f}" for one in seconds))
    return shown


def _parts(options: argparse.Namespace) -> dict[int, dict[str, float]]:
    return {
        number: parts(
            number,
            options.steps,
            _params(options),
            instantly(load),
            EngineConfig(model=amuse.path(), max_running=number, threads=1),
        )
        for number in options.sequences
    }


def main() -> None:
    """Measure, print, publish."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--sequences", type=lambda text: [int(each) for each in text.split(",")], default="1,8,32,64,128"
    )
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--steps", type=int, default=400)
    arguments.add_argument("--sampled", action="store_true")
    arguments.add_argument("--profile", help="a file for the profile of the engine process; times are no use then")
    options = arguments.parse_args()
    if options.profile:
        os.environ[_PROFILE] = options.profile
    runs = asyncio.run(_measure_all(options))
    Console().print(table(runs))
    medians = {number: statistics.median(run.engine_s for run in each) for number, each in runs.items()}
    fixed_s, each_s = fitted(medians)
    Console().print(f"engine: {1e6 * fixed_s:.0f} µs and {1e6 * each_s:.1f} µs for each sequence")
    by_part = _parts(options)
    Console().print(parts_table(by_part))
    whole_s, more_s = fitted({number: sum(each.values()) for number, each in by_part.items()})
    Console().print(
        f"all parts: {1e6 * whole_s:.0f} µs and {1e6 * more_s:.1f} µs for each sequence; aimed at 100 and 3"
    )
    figures = {
        str(number): {"engine_s": [run.engine_s for run in each], "server_s": [run.server_s for run in each]}
        for number, each in runs.items()
    }
    settings = {"steps": options.steps, "sampled": options.sampled}
    publish(
        "host_overhead",
        {
            "settings": settings,
            "fixed_s": fixed_s,
            "each_s": each_s,
            "runs": figures,
            "parts": {str(number): each for number, each in by_part.items()},
        },
    )


if __name__ == "__main__":
    if len(sys.argv) == 5 and sys.argv[1].isdigit():  # as the server side starts an engine process
        sys.exit(serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
    main()
