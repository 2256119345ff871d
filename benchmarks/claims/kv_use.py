"""What a KV cache is worth: an answer with one, and with its whole text computed again for every token."""

from typing import Any

from benchmarks.claims.claim import Reading
from benchmarks.claims.measurement import Figures, Measurement, Readings
from benchmarks.claims.stage import Stage
from benchmarks.continuous_batching import Load, workload
from benchmarks.prefix_cache import answer
from servery.bench.span import Span
from servery.engine.core import EngineCore
from servery.engine.request import NewRequest, SamplingParams

SEQUENCES = 16


def _measure(stage: Stage) -> dict[str, Any]:
    tokens = stage.pick(247, 6)
    models = {"amuse": (stage.amuse, 1), "88M": (stage.middle, stage.pick(13, 1))}
    return {
        "tokens": tokens,
        "models": {
            name: _one(stage.engine(path, max_running=SEQUENCES), tokens, every)
            for name, (path, every) in models.items()
        },
    }


def _one(core: EngineCore, tokens: int, every: int) -> dict[str, float]:
    answer(core, _request(range(16), 4))  # warm up
    load = Load(core)
    load.run(workload(SEQUENCES, core.info.vocab_size, answers=Span(tokens, tokens)))
    return {
        "with_s": answer(core, _request(range(16), tokens))["total_s"],
        "without_s": recomputed_s(core, tokens, every),
        "batch_tokens_per_s": load.tokens / load.finished_s[-1],
        "every": every,
    }


def recomputed_s(core: EngineCore, tokens: int, every: int) -> float:
    """Seconds of an answer whose whole text is computed for each token; of only each `every`-th, which stands for as many."""
    sampled = range(0, tokens, every)
    times = [answer(core, _request(range(16 + done), 1))["total_s"] for done in sampled]
    return sum(times) * tokens / len(times)


def _request(prompt: range, tokens: int) -> NewRequest:
    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    return NewRequest(request_id=f"{len(prompt)}-{tokens}", prompt=[7 + at % 200 for at in prompt], params=params)


def _readings(figures: Figures) -> Readings:
    models = figures["models"].items()
    return {
        "naive-seconds": [Reading(name, each["without_s"]) for name, each in models],
        "no-kv-cache": [Reading(name, each["without_s"] / each["with_s"]) for name, each in models],
        "ten-to-fifty-times-traffic": [
            Reading(name, each["batch_tokens_per_s"] * each["without_s"] / figures["tokens"]) for name, each in models
        ],
    }


KV_USE = Measurement(
    "kv_use",
    30.0,
    "An answer of 247 tokens to a prompt of 16. Without the cache every text up to there is computed as a prompt; of the 88M "
    "model every 13th of them, which stands for 13. Then 16 such answers at once, with the cache.",
    _measure,
    _readings,
)
