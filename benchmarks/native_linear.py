"""Linear layers by the native kernels beside torch's own operations, in turns, on one thread.

Every variant multiplies the same distinct weights, more than any cache holds, as a decoder's layers do; its time is CPU
time of the thread, which other processes lengthen only through caches and memory. Told are the median of the rounds,
bytes of weights read per second with their share of the measured read bandwidth of one thread, operations per second,
and how many times as fast as torch.

python -m benchmarks.native_linear [--size 3072x1024] [--layers 24] [--rows 1,4,8,32,128] [--rounds 7]
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import thread_time
from typing import Any

import torch
from torch import Tensor

from benchmarks.result import interleaved, median_ratio, publish
from servery.bench import bandwidth
from servery.engine.linear import linear_of
from servery.engine.native.library import NativeContext, open_library, variants
from servery.engine.quantization.matrix import DenseMatrix, Matrix
from servery.engine.quantization.rounding import rounded
from servery.engine.quantization.scheme import Rounding

KINDS: dict[str, tuple[torch.dtype, Callable[[Tensor], Matrix]]] = {
    "float32": (torch.float32, DenseMatrix),
    "bfloat16": (torch.bfloat16, lambda weight: DenseMatrix(weight.bfloat16())),
    "int8": (torch.bfloat16, lambda weight: rounded(weight, Rounding(bits=8))),
    "int4": (torch.bfloat16, lambda weight: rounded(weight, Rounding(bits=4, group_size=64))),
}
WAYS = ("native", "torch")


def measure(kind: str, size: tuple[int, int], layers: int, rows: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """A record for each number of rows: seconds per layer of every round by either way, and what they come to."""
    library = open_library()
    context = NativeContext(library, variants(library)[0], 1)
    dtype, make = KINDS[kind]
    matrices = [make(torch.randn(size) * size[1] ** -0.5) for _ in range(layers)]
    stacks = {
        "native": [linear_of([matrix], dtype=dtype, native=context) for matrix in matrices],
        "torch": [linear_of([matrix], dtype=dtype) for matrix in matrices],
    }
    passes = {way: partial(_through, stack) for way, stack in stacks.items()}
    read_bytes = stacks["native"][0].nbytes
    return [_record(kind, count, passes, layers, rounds, read_bytes, size, dtype) for count in rows]


def _record(
    kind: str,
    rows: int,
    passes: Mapping[str, Callable[[Tensor], None]],
    layers: int,
    rounds: int,
    read_bytes: int,
    size: tuple[int, int],
    dtype: torch.dtype,
) -> dict[str, Any]:
    x = torch.randn(rows, size[1]).to(dtype)
    runs: dict[str, list[float]] = {way: [] for way in WAYS}
    for _, way in interleaved(WAYS, rounds):
        began = thread_time()
        passes[way](x)
        runs[way].append((thread_time() - began) / layers)
    median_s = statistics.median(runs["native"])
    return {
        "kind": kind,
        "rows": rows,
        "native_ms": median_s * 1e3,
        "read_bytes_per_s": read_bytes / median_s,
        "operations_per_s": 2 * rows * size[0] * size[1] / median_s,
        "times_as_fast_as_torch": median_ratio(runs["torch"], runs["native"]),
        "runs": runs,
    }


def _through(stack: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> None:
    for layer in stack:
        layer(x)


def main() -> None:
    """Measure every kind, write the file, print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="3072x1024")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rows", default="1,4,8,32,128")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    outputs, inputs = map(int, options.size.split("x"))
    rows = [int(each) for each in options.rows.split(",")]
    ceiling = bandwidth.measure(1)
    records = [
        {**record, "share_of_read_bandwidth": record["read_bytes_per_s"] / ceiling.best_bytes_per_s}
        for kind in KINDS
        for record in measure(kind, (outputs, inputs), options.layers, rows, options.rounds)
    ]
    told = [{key: value for key, value in record.items() if key != "runs"} for record in records]
    runs = [record["runs"] for record in records]
    variant = variants(open_library())[0]
    size = {"outputs": outputs, "inputs": inputs, "layers": options.layers}
    publish(
        "native-linear",
        {"variant": variant, **size, "linears": told, "read_bandwidth": dataclasses.asdict(ceiling), "runs": runs},
    )


if __name__ == "__main__":
    main()
