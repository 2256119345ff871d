"""What must be right, not quick: tokens and logits beside a CPU's, batches that change nothing, and steps that never wait."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.parts import Machine, Row
from benchmarks.gpu.random_model import random_core, random_decoder, shape_600m
from servery import amuse
from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.config import StepLimits
from servery.engine.decoder import Decoder
from servery.engine.device import CPU
from servery.engine.device_kernels import open_device_kernels
from servery.engine.kv import KVCache
from servery.engine.loader import LoadTarget, build_decoder
from servery.engine.placing import DevicePlacing
from servery.engine.request import NewRequest, SamplingParams
from servery.engine.weights import open_weights

_BLOCK = 16
_SAID: list[dict[str, Any]] = [
    {"repetition_penalty": 1.2, "frequency_penalty": 0.3},
    {"logprobs": 5},
    {"logit_bias": {7: 1.0, 9: -5.0}, "min_tokens": 20},
    {"allowed_token_ids": tuple(range(100, 900))},
]


def exactness(machine: Machine) -> Iterator[Row]:
    """The model that ships with the project: greedy tokens in float32, and logits in bfloat16, beside the CPU's."""
    folder = amuse.path()
    config = ModelConfig.load(folder)
    reference = _loaded(folder, config, CPU, torch.float32)
    prompt = [(11 * at) % config.vocab_size for at in range(64)]
    steps = 16 if machine.is_dry else 200
    expected = _greedy(reference, prompt, steps)
    for kernels in ("torch", "auto"):
        model = _loaded(folder, config, machine.device, torch.float32, kernels)
        found = _greedy(model, prompt, steps)
        same = next((at for at, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b), steps)
        yield Row("exactness", f"float32, kernels {kernels}: greedy tokens as the CPU's, of {steps}", same, "", steps)
    whole = _logits(reference, [(prompt, 0)])
    rounded = _logits(_loaded(folder, config, CPU, torch.bfloat16), [(prompt, 0)])
    found_logits = _logits(_loaded(folder, config, machine.device, torch.bfloat16), [(prompt, 0)])
    noise, ours = (float((each - whole).abs().max() / whole.abs().max()) for each in (rounded, found_logits))
    yield Row(
        "exactness",
        "bfloat16: largest error of a logit over that of bfloat16 on a CPU",
        ours / noise,
        "x",
        2.0,
        is_cost=True,
    )


def invariance(machine: Machine) -> Iterator[Row]:
    """With --batch-invariant a row's logits are the same bits alone and among others."""
    config = shape_600m(machine)
    dtype = torch.float32 if machine.is_dry else torch.bfloat16
    for is_invariant in (True, False):
        model = random_decoder(config, machine.device, dtype=dtype, batch_invariant=is_invariant)
        rows = [([(7 * row + 3 * at) % config.vocab_size for at in range(40 + 9 * row)], 0) for row in range(12)]
        together = _logits(model, rows, last=True)
        alone = torch.cat([_logits(model, [row], last=True) for row in rows])
        same = float((together == alone).all(1).float().mean())
        name = "batch-invariant" if is_invariant else "as usual"
        yield Row(
            "invariance", f"{name}: rows with the same bits alone and among 12", same, "", 1.0 if is_invariant else None
        )


def syncs(machine: Machine) -> Iterator[Row]:
    """Steady decoding, with torch told to raise wherever the host would wait for the device unasked.

    First of requests that only have a temperature, then of some that say all there is to say of tokens.
    """
    if machine.device.type != "cuda":
        yield Row("syncs", "needs a GPU: a CPU has nothing to wait for", 0.0)
        return
    for name, said in (("chance alone", [{}]), ("rules for tokens, log probabilities", _SAID)):
        core = random_core(shape_600m(machine), machine, StepLimits(16, 2048), max_model_len=4096, kv_tokens=32_768)
        for number in range(16):
            settings = {"temperature": 0.7 * (number % 2), "top_p": 0.9, **said[number % len(said)]}
            params = SamplingParams(max_tokens=400, seed=number, ignore_eos=True, **settings)
            core.add(NewRequest(request_id=f"r{number}", prompt=[number + 1] * (50 + number), params=params), number)
        for _ in range(40):
            core.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(64):
                core.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        failed = core.stats().failed_steps
        yield Row("syncs", f"{name}: steps in which the host waited unasked, of 64", failed, "", 0.0, is_cost=True)
        del core
        machine.clear()


def _loaded(
    folder: Path, config: ModelConfig, device: torch.device, dtype: torch.dtype, kernels: str = "auto"
) -> Decoder:
    place = DevicePlacing(device) if device.type == "cuda" else None
    opened = open_device_kernels(device, dtype, kernels, batch_invariant=False)
    with open_weights(folder, config, dtype) as reader:
        model = build_decoder(config, reader, target=LoadTarget(device, place, opened))
    if place is not None:
        place.close()
    return model


@torch.inference_mode()
def _logits(model: Decoder, rows: list[tuple[list[int], int]], *, last: bool = False) -> Tensor:
    """float32 on the host, of all tokens of some rows, or of the last of each."""
    widths = [-(-len(tokens) // _BLOCK) for tokens, _ in rows]
    cache = KVCache(model.config, sum(widths), _BLOCK, model.dtype, str(model.device))
    firsts = [sum(widths[:row]) for row in range(len(rows))]
    blocks = [list(range(first, first + width)) for first, width in zip(firsts, widths, strict=True)]
    batch = Batch.build([(tokens, start, ids) for (tokens, start), ids in zip(rows, blocks, strict=True)], _BLOCK)
    hidden = model.forward(batch, cache)
    if last:
        ends = torch.tensor([sum(len(tokens) for tokens, _ in rows[: row + 1]) - 1 for row in range(len(rows))])
        hidden = hidden.index_select(0, ends.to(hidden.device))
    return model.logits(hidden).float().cpu()


@torch.inference_mode()
def _greedy(model: Decoder, prompt: list[int], steps: int) -> list[int]:
    blocks = list(range(-(-(len(prompt) + steps) // _BLOCK)))
    cache = KVCache(model.config, len(blocks), _BLOCK, model.dtype, str(model.device))
    tokens, found = prompt, list[int]()
    for _ in range(steps):
        start = len(prompt) + len(found) - len(tokens)
        hidden = model.forward(Batch.build([(tokens, start, blocks)], _BLOCK), cache)
        found.append(int(model.logits(hidden[-1:]).argmax()))
        tokens = found[-1:]
    return found
