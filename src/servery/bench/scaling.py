"""What several cores of this machine do together beside one: the ceiling of what more threads can gain.

Method: independent work, of which nothing is shared: each thread sums a buffer of its own, beyond what caches hold, or
multiplies matrices of its own, which stay in them. The same work by one thread alone and by all at once, in turns; the
best of the rounds of each counts, since whatever else runs on the machine can only lengthen one. What the ratio lacks is
the machine's: a shared memory bus, two hardware threads of one core, a lower clock.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

BUFFER_BYTES = 256 << 20
ROUNDS = 7
_GEMM_SIZE = 512
_GEMMS = 12

_Work = Callable[[int], object]  # of a thread, by its number


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many times as much `threads` threads read, and multiply, as one does."""

    threads: int
    reading: float
    multiplying: float


def measure(threads: int, buffer_bytes: int = BUFFER_BYTES, rounds: int = ROUNDS) -> Scaling:
    """Have one thread and `threads` threads do the same work each."""
    buffers = [np.ones(buffer_bytes // 8) for _ in range(threads)]
    matrices = torch.randn(threads, 2, _GEMM_SIZE, _GEMM_SIZE)

    def read(number: int) -> object:
        return buffers[number].sum()

    def multiply(number: int) -> object:
        a, b = matrices[number]
        return [a @ b for _ in range(_GEMMS)]

    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return Scaling(threads, _ratio(pool, read, threads, rounds), _ratio(pool, multiply, threads, rounds))


def _ratio(pool: ThreadPoolExecutor, work: _Work, threads: int, rounds: int) -> float:
    times: dict[int, list[float]] = {1: [], threads: []}
    for number in range(rounds + 1):
        for count, found in times.items():
            began = perf_counter()
            list(pool.map(work, range(count)))
            if number:  # the first starts the threads
                found.append(perf_counter() - began)
    return threads * min(times[1]) / min(times[threads])
