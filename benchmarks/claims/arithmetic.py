"""The texts' sums, done again from their own premises."""

from typing import Any

from benchmarks.claims.claim import Reading
from benchmarks.claims.kv_size import config_of
from benchmarks.claims.measurement import Figures, Measurement, Readings
from benchmarks.claims.stage import Stage

_DAYS = 30


def _measure(stage: Stage) -> dict[str, Any]:
    return {**results(), "headroom_percent": headroom_percent(config_of("Llama-2-70B", stage).weight_bytes(2), 4, 80)}


def headroom_percent(weight_bytes: int, gpus: int, gigabytes: int) -> float:
    """What the weights leave of the memory of some GPUs."""
    return 100 * (1 - weight_bytes / (gpus * gigabytes * 1e9))


def results() -> dict[str, float]:
    """Each sum by the key of its claim."""
    million = 1e6
    return {
        "tpot-dominates": 0.4 + 500 * 0.04,
        "utilization-triples": 1 / 0.3,
        "api-bill": _DAYS * 10_000 * (500 * 10 + 300 * 30) / million,
        "self-hosted-bill": _DAYS * 8 * million * (2 * 3 / 200_000),
        "startup-bill": _DAYS * million * 4 * 800 * 0.03 / 1000 / million,
        "gpt-4o-mini-20x": 3 / 0.15,
        "cache-hits": 200_000 * (1 - 0.38),
        "compression": 100 * (1 - 520 / 800),
        "compression-with-answers": 100 * (1 - (520 + 4 * 400) / (800 + 4 * 400)),
        "mixtral-eighth": 100 * mixture_share(),
        "vllm-lowest": 1200 / 300,
        "vllm-highest": 1800 / 400,
    }


def mixture_share() -> float:
    """The share of the weights of Mixtral 8x7B that one token uses: 2 of 8 experts, and all that is none.

    Its shape: 32 layers of width 4,096, 32 heads and 8 of keys and values of 128 each, experts of 14,336, 32,000 tokens.
    """
    layers, width, kv_width, expert_width, vocabulary = 32, 4096, 8 * 128, 14_336, 32_000
    expert = 3 * width * expert_width
    others = layers * (2 * width * width + 2 * width * kv_width + 8 * width) + 2 * vocabulary * width
    return (others + layers * 2 * expert) / (others + layers * 8 * expert)


def _readings(figures: Figures) -> Readings:
    sums = {key: round(value, 6) for key, value in figures.items()}
    single = (
        "tpot-dominates",
        "utilization-triples",
        "api-bill",
        "self-hosted-bill",
        "startup-bill",
        "gpt-4o-mini-20x",
        "cache-hits",
        "mixtral-eighth",
    )
    return {
        **{key: [Reading("computed", sums[key])] for key in single},
        "compression": [
            Reading("prompt", sums["compression"]),
            Reading("with answers", sums["compression-with-answers"]),
        ],
        "vllm-4-5": [Reading("lowest", sums["vllm-lowest"]), Reading("highest", sums["vllm-highest"])],
        "quarter-of-the-hardware": [Reading("left of 320 GB", sums["headroom_percent"])],
    }


ARITHMETIC = Measurement("arithmetic", 1.0, "Sums of the texts' own figures.", _measure, _readings)
