"""How much of the allocated KV memory holds nothing: in pages, and in contiguous pieces."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmarks.claims.claim import Reading
from benchmarks.claims.measurement import Figures, Measurement, Readings
from benchmarks.claims.stage import Stage
from benchmarks.continuous_batching import Load, Slots, workload
from servery.bench.traces.synthetic import synthetic
from servery.engine.core import EngineCore
from servery.engine.request import NewRequest, SamplingParams

PAGED, KNOWN, CONTEXT = "paged", "contiguous, answer length known", "contiguous, context length"
RUNNING = 32


def _measure(stage: Stage) -> dict[str, Any]:
    # What is allocated does not depend on the weights; with whole prompts in a step, all KV is written after each.
    core = stage.engine(stage.draft, max_running=RUNNING, max_step_tokens=stage.pick(4096, 256))
    loads = {
        "chat traffic": chat(stage.pick(160, 4), core, stage.pick(1.0, 0.02)),
        "short prompts": workload(stage.pick(160, 4), core.info.vocab_size),
    }
    return {
        "context_tokens": core.info.max_model_len,
        "block_tokens": core.info.block_size,
        "slots": {name: dataclasses.asdict(_slots(core, requests)) for name, requests in loads.items()},
    }


def chat(number: int, core: EngineCore, scale: float = 1.0) -> list[NewRequest]:
    """Requests of the lengths of Azure's conversation trace of 2023, cut to the model's context."""
    requests = []
    for index, one in enumerate(synthetic("chat", number, seed=0)):
        output = min(max(1, round(one.output_tokens * scale)), core.info.max_model_len // 2)
        length = min(max(1, round(one.input_tokens * scale)), core.info.max_model_len - output)
        prompt = [(7919 * index + 31 * at) % core.info.vocab_size for at in range(length)]
        params = SamplingParams(max_tokens=output, temperature=0.0, ignore_eos=True)
        requests.append(NewRequest(request_id=str(index), prompt=prompt, params=params))
    return requests


def _slots(core: EngineCore, requests: Sequence[NewRequest]) -> Slots:
    load = Load(core, Slots())
    load.run(requests)
    assert load.slots is not None
    return load.slots


def _readings(figures: Figures) -> Readings:
    slots = {name: Slots(**each) for name, each in figures["slots"].items()}
    wasted = {name: each.waste_percent() for name, each in slots.items()}
    room = [Reading(name, each.context_length / each.allocated) for name, each in slots.items()]
    return {
        "paged-waste": [Reading(name, each[PAGED]) for name, each in wasted.items()],
        "reserved-waste": [Reading(name, each[CONTEXT]) for name, each in wasted.items()],
        "fragmented-waste": [Reading(name, each[KNOWN]) for name, each in wasted.items()],
        "more-concurrent-requests": room,
        "two-to-three-times-requests": room,
    }


KV_WASTE = Measurement(
    "kv_waste",
    30.0,
    "amuse-draft, 32 sequences at a time, context 4,096, blocks of 16, 160 requests: chat traffic as in Azure's trace of "
    "2023 (1,155 + 211 tokens on average), and prompts of 16 to 64 with answers of 10 to 500.",
    _measure,
    _readings,
)
