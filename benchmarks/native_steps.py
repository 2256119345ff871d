"""Steps of a model in one native call beside the same kernels called one by one, and beside torch, in turns, on one thread.

A step includes the logits of the rows that ask for a token. Its time is CPU time of the thread, which other processes
lengthen only through caches and memory. Told are the median of the rounds, bytes of weights, keys and values read per
second with their share of the measured read bandwidth of one thread, and how many times as fast as either other way.

python -m benchmarks.native_steps [--model FOLDER] [--dtype auto] [--quantize int8|int4] [--rounds 15] [--without-torch]
"""

import argparse
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import thread_time
from typing import Any, NamedTuple

import torch

from benchmarks.result import interleaved, median_ratio, publish
from servery import amuse
from servery.bench import bandwidth
from servery.engine.batch import Batch
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.decoder import Decoder


class Case(NamedTuple):
    """A step of `rows` sequences that get to `context` tokens by `tokens` new ones each."""

    rows: int
    tokens: int
    context: int


CASES = (Case(1, 1, 128), Case(1, 1, 1024), Case(8, 1, 128), Case(32, 1, 128), Case(1, 128, 128))


def measure(
    config: EngineConfig, cases: Sequence[Case], rounds: int, *, with_torch: bool = True
) -> list[dict[str, Any]]:
    """A record for each case: seconds of every round by each way, and what they come to."""
    core = EngineCore(dataclasses.replace(config, kernels="native", threads=1))
    assert core.model.loop is not None, "this model has no native loop"
    ways = {"loop": core.model, "kernels": core.model.with_loop(None)}
    if with_torch:
        ways["torch"] = EngineCore(dataclasses.replace(config, kernels="torch", threads=1)).model
    torch.set_num_threads(1)
    return [_record(case, ways, core, rounds) for case in cases]


def _record(case: Case, ways: Mapping[str, Decoder], core: EngineCore, rounds: int) -> dict[str, Any]:
    batch, cache = batch_of(case, core.info.block_size), core.cache
    last = torch.arange(1, case.rows + 1) * case.tokens - 1
    runs: dict[str, list[float]] = {way: [] for way in ways}
    for number, way in interleaved(list(ways), rounds + 1):
        began = thread_time()
        ways[way].logits(ways[way].forward(batch, cache).index_select(0, last))
        if number:  # the first ones warm up
            runs[way].append(thread_time() - began)
    median_s = statistics.median(runs["loop"])
    read_bytes = core.model.weight_bytes + case.rows * case.context * core.info.kv_bytes_per_token
    return {
        **case._asdict(),
        "loop_ms": median_s * 1e3,
        "read_bytes_per_s": read_bytes / median_s,
        "times_as_fast_as": {way: median_ratio(runs[way], runs["loop"]) for way in ways if way != "loop"},
        "runs": runs,
    }


def batch_of(case: Case, block_size: int) -> Batch:
    """The step, each sequence in blocks of its own."""
    blocks = -(-case.context // block_size)
    tables = [range(row * blocks, (row + 1) * blocks) for row in range(case.rows)]
    return Batch.build([([1] * case.tokens, case.context - case.tokens, table) for table in tables], block_size)


def main() -> None:
    """Measure every case, write the file, print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=amuse.path())
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantize")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--without-torch", action="store_true")
    options = parser.parse_args()
    config = EngineConfig(model=options.model, dtype=options.dtype, quantize=options.quantize, kv_memory_bytes=1 << 30)
    ceiling = bandwidth.measure(1)
    records = measure(config, CASES, options.rounds, with_torch=not options.without_torch)
    told = [
        {
            **{key: value for key, value in record.items() if key != "runs"},
            "share_of_read_bandwidth": record["read_bytes_per_s"] / ceiling.best_bytes_per_s,
        }
        for record in records
    ]
    what = {"model": options.model.name, "dtype": options.dtype, "quantize": options.quantize}
    figures = {**what, "steps": told, "read_bandwidth": dataclasses.asdict(ceiling)}
    publish("native-steps", {**figures, "runs": [record["runs"] for record in records]})


if __name__ == "__main__":
    main()
