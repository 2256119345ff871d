"""What 8 and 4 bit weights cost and save in a step: bfloat16, int8, int4 and fp8 of one model, in turns.

The model is made of random numbers (what they are decides no time), 88M parameters in Llama's layout unless --model
names a checkpoint. A step has one new token for each of 1, 4 and 16 sequences, or 256 tokens of one prompt. Time is CPU
time of one thread, so that others on the machine count little; the figure is the median of all rounds.

python -m benchmarks.quantized_steps [--model DIRECTORY] [--rounds 15]
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from time import process_time

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.random_model import LLAMA_88M, make_model
from benchmarks.result import ceiling, interleaved, publish
from servery.byte_size import format_byte_size
from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.decoder import Decoder
from servery.engine.kv import KVCache
from servery.engine.loader import load_model
from servery.engine.quantization.scheme import ROUND, SCHEMES, plan_rounding
from servery.engine.quantizer.quantizer import Quantizer

CONTEXT, BLOCK = 128, 16
# Name: sequences, and new tokens of each.
STEPS = {"1 row": (1, 1), "4 rows": (4, 1), "16 rows": (16, 1), "prompt of 256": (1, 256)}
DENSE = "bfloat16"


def load_all(model: Path) -> dict[str, Decoder]:
    """The model in bfloat16 and in each scheme."""
    config = ModelConfig.load(model)
    plans = {scheme: plan_rounding(config, scheme, method=ROUND) for scheme in SCHEMES}
    quantizers = {DENSE: None} | {scheme: Quantizer(config, plan, None) for scheme, plan in plans.items()}
    return {name: load_model(model, config, torch.bfloat16, quantizer=each) for name, each in quantizers.items()}


def step_time(model: Decoder, sequences: int, new_tokens: int) -> float:
    """CPU seconds of one step, from token ids to logits."""
    blocks = -(-(CONTEXT + new_tokens) // BLOCK)
    rows = [
        ([1 + row] * new_tokens, CONTEXT, list(range(row * blocks, (row + 1) * blocks))) for row in range(sequences)
    ]
    batch = Batch.build(rows, BLOCK)
    cache = KVCache(model.config, sequences * blocks, BLOCK, model.dtype)
    began = process_time()
    model.logits(model.forward(batch, cache)[-sequences:])
    return process_time() - began


def measure(models: dict[str, Decoder], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of each kind of step for each model."""
    seconds: dict[str, dict[str, list[float]]] = {step: {name: [] for name in models} for step in STEPS}
    for step, (sequences, new_tokens) in STEPS.items():
        for model in models.values():  # warm up
            step_time(model, sequences, new_tokens)
        for _, name in interleaved(tuple(models), rounds):
            seconds[step][name].append(step_time(models[name], sequences, new_tokens))
    return {step: {name: statistics.median(each) for name, each in of.items()} for step, of in seconds.items()}


def table(models: dict[str, Decoder], seconds: dict[str, dict[str, float]]) -> Table:
    """Bytes, times, and times over those of bfloat16."""
    shown = Table("weights", "held in memory", *STEPS)
    for name, model in models.items():
        held = model.weight_bytes
        size = f"{format_byte_size(held)} ({held / models[DENSE].weight_bytes:.2f})"
        times = (
            f"{1e3 * seconds[step][name]:.1f} ms ({seconds[step][name] / seconds[step][DENSE]:.2f})" for step in STEPS
        )
        shown.add_row(name, size, *times)
    return shown


def main() -> None:
    """Measure, print, publish."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, help="directory of a checkpoint")
    arguments.add_argument("--rounds", type=int, default=15)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        models = load_all(options.model or make_model(Path(folder), LLAMA_88M))
    seconds = measure(models, options.rounds)
    Console().print(table(models, seconds))
    held = {name: model.weight_bytes for name, model in models.items()}
    settings = {"model": str(options.model) if options.model else LLAMA_88M, "context_tokens": CONTEXT}
    publish("quantized_steps", {"settings": settings, "bandwidth": ceiling(), "weight_bytes": held, "step_s": seconds})


if __name__ == "__main__":
    main()
