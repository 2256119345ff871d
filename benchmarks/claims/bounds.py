"""What steps wait for: the share of this core's bandwidth (MBU) and of its arithmetic (MFU), by how many rows they have."""

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.claims.claim import Reading
from benchmarks.claims.measurement import Figures, Measurement, Readings
from benchmarks.claims.stage import Stage
from servery.bench.page.axis import Axis
from servery.bench.page.plot import Plot
from servery.bench.roofline import measure_machine
from servery.bench.step_times import StepTime, StepTimer

DECODE_ROWS = (1, 2, 4, 8, 16, 32)
PROMPTS = (32, 128, 512)
DTYPE = "bfloat16"


def _measure(stage: Stage) -> dict[str, Any]:
    torch.set_num_threads(1)
    machine = measure_machine(1)
    core = stage.engine(stage.large, dtype=DTYPE, kv_memory_bytes=stage.pick(1 << 30, 32 << 20))
    timer, context = StepTimer(core.model, core.cache), stage.pick(256, 32)
    decoding = [timer.time(rows, 1, context, stage.pick(9, 1)) for rows in stage.pick(DECODE_ROWS, (1, 2))]
    prompts = [timer.time(1, tokens, tokens, stage.pick(5, 1)) for tokens in stage.pick(PROMPTS, (8, 16))]
    return {
        "bandwidth": machine.bandwidth.best_bytes_per_s,
        "operations_per_s": machine.operations_per_s[DTYPE],
        "all_rates": machine.operations_per_s,
        "decode": [_figures(step) for step in decoding],
        "prefill": [_figures(step) for step in prompts],
    }


def _figures(step: StepTime) -> dict[str, float]:
    return {
        "rows": step.rows * step.tokens,
        "seconds": step.seconds,
        "bytes": sum(part.bytes_read for part in step.parts),
        "operations": sum(part.operations for part in step.parts),
    }


def mbu(step: Mapping[str, float], figures: Figures) -> float:
    """Bytes that must be read per second, over the bandwidth, in per cent."""
    return 100 * step["bytes"] / step["seconds"] / float(figures["bandwidth"])


def mfu(step: Mapping[str, float], figures: Figures) -> float:
    """Operations per second over those of a large product, in per cent."""
    return 100 * step["operations"] / step["seconds"] / float(figures["operations_per_s"])


def computing_over_reading(step: Mapping[str, float], figures: Figures) -> float:
    """The least time for the arithmetic over the least time for the bytes: above 1 the arithmetic is the limit."""
    computing_s = step["operations"] / float(figures["operations_per_s"])
    return computing_s * float(figures["bandwidth"]) / step["bytes"]


def _readings(figures: Figures) -> Readings:
    alone, batch, prompt = figures["decode"][0], figures["decode"][-1], figures["prefill"][-1]
    of_prompt = f"prompt of {prompt['rows']:.0f}"
    return {
        "prefill-compute-bound": [Reading(of_prompt, computing_over_reading(prompt, figures))],
        "prefill-mfu": [Reading(of_prompt, mfu(prompt, figures))],
        "decode-memory-bound": [
            Reading(
                f"{step['rows']:.0f} sequence{'s' if step['rows'] > 1 else ''}",
                1 / computing_over_reading(step, figures),
            )
            for step in (alone, batch)
        ],
        "decode-mbu": [Reading("1 sequence", mbu(alone, figures))],
        "decode-idle": [Reading("1 sequence", mfu(alone, figures))],
    }


def _plots(figures: Figures) -> dict[str, Plot]:
    steps = [*figures["decode"], *figures["prefill"][1:]]
    plot = Plot(
        "Share of this core's limits",
        "rows of a step: sequences that decode, then tokens of a prompt",
        "per cent",
        Axis.over([step["rows"] for step in steps], is_log=True),
        Axis(0.0, 105.0),
    )
    plot.line([(step["rows"], mbu(step, figures)) for step in steps], 1, "bandwidth (MBU)", has_dots=True)
    plot.line([(step["rows"], mfu(step, figures)) for step in steps], 2, "arithmetic (MFU)", has_dots=True)
    return {"bounds": plot}


BOUNDS = Measurement(
    "bounds",
    60.0,
    "Random weights in the shape of Qwen3 with 473M parameters, bfloat16, one core: 1 to 32 sequences that decode at 256 "
    "tokens of context, and prompts. The limits are measured in the same run: reading 512 MiB, and a product of 1,024-cubed matrices.",
    _measure,
    _readings,
    _plots,
)
