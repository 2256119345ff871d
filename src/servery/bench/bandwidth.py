"""The memory bandwidth of this machine: the ceiling of decoding, where every step reads all the weights.

Method: one buffer of 512 MiB or more (far beyond any cache), filled first so that every page is real; each thread sums
its own contiguous part as 64-bit floats with NumPy, which reads with vector loads and releases the GIL; bytes of the
buffer over the wall time of the slowest thread. The best of several rounds is the bandwidth, as in STREAM: whatever
else runs on the machine can only lower a round. The median is told too, to show how quiet the machine was.
"""

import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BUFFER_BYTES = 512 << 20
ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes per second that `threads` threads read together."""

    best_bytes_per_s: float
    median_bytes_per_s: float
    threads: int
    buffer_bytes: int
    rounds: int
    method: str = "sum of float64 in one buffer, a contiguous part per thread, best of the rounds"


def measure(threads: int, buffer_bytes: int = BUFFER_BYTES, rounds: int = ROUNDS) -> Bandwidth:
    """Read `buffer_bytes` with `threads` threads, `rounds` times. Needs NumPy; raises `ImportError` without it."""
    import numpy as np

    if buffer_bytes < BUFFER_BYTES:
        raise ValueError(f"buffer_bytes is {buffer_bytes}; below {BUFFER_BYTES} caches would be measured.")
    parts = np.array_split(np.ones(buffer_bytes // 8), threads)
    with ThreadPoolExecutor(threads) as pool:
        times = [_round(pool, parts) for _ in range(rounds + 1)][1:]  # the first starts the threads
    return Bandwidth(buffer_bytes / min(times), buffer_bytes / statistics.median(times), threads, buffer_bytes, rounds)


def _round(pool: ThreadPoolExecutor, parts: "list[np.ndarray[tuple[int], np.dtype[np.float64]]]") -> float:
    began = perf_counter()
    list(pool.map(lambda part: part.sum(), parts))
    return perf_counter() - began
