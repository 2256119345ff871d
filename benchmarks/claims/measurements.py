"""All measurements, in the order in which they run: those of this process first, then those that start servers."""

from benchmarks.claims.arithmetic import ARITHMETIC
from benchmarks.claims.batching import BATCHING
from benchmarks.claims.bounds import BOUNDS
from benchmarks.claims.cold_start import COLD_START
from benchmarks.claims.goodput import GOODPUT
from benchmarks.claims.kv_size import KV_SIZE
from benchmarks.claims.kv_use import KV_USE
from benchmarks.claims.kv_waste import KV_WASTE
from benchmarks.claims.latency import LATENCY
from benchmarks.claims.measurement import Measurement
from benchmarks.claims.prefix import PREFIX
from benchmarks.claims.quantization import QUANTIZATION
from benchmarks.claims.speculation import SPECULATION
from benchmarks.claims.streaming import STREAMING

MEASUREMENTS: dict[str, Measurement] = {
    each.key: each
    for each in (
        ARITHMETIC,
        KV_SIZE,
        KV_WASTE,
        BOUNDS,
        LATENCY,
        BATCHING,
        KV_USE,
        PREFIX,
        QUANTIZATION,
        SPECULATION,
        STREAMING,
        GOODPUT,
        COLD_START,
    )
}
