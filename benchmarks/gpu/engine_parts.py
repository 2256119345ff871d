"""The engine as it serves, over models of real shapes: decoding, prompts, a workload, and what the host takes."""

import random
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.parts import Machine, Row
from benchmarks.gpu.random_model import random_core, shape_8b, shape_600m
from servery.engine.architecture import ModelConfig
from servery.engine.config import StepLimits
from servery.engine.core import EngineCore
from servery.engine.request import NewRequest, SamplingParams, Sequence

_SCHEMES = {"bf16": None, "fp8": "fp8", "int8": "int8", "int4": "int4"}
_TARGETS = {"fp8": 1.7, "int8": 1.7, "int4": 2.5}


class Pace(NamedTuple):
    """What steady decoding takes: seconds of a step, of the host in it, and bytes that it reads."""

    step_s: float
    host_s: float
    read_bytes: float


def decode_8b(machine: Machine) -> Iterator[Row]:
    """A sequence alone with 1k of context, weights in four layouts: the share of the bandwidth, and the rate."""
    config, context = shape_8b(machine), 64 if machine.is_dry else 1024
    rates: dict[str, float] = {}
    for name, scheme in _SCHEMES.items():
        try:
            started = time.perf_counter()
            core = random_core(
                config, machine, StepLimits(8, 4096), max_model_len=8192, kv_tokens=16_384, scheme=scheme
            )
            pace = steady(core, machine, sequences=1, context=context, steps=24 if machine.is_dry else 192)
            ready_s = time.perf_counter() - started
        except RuntimeError as error:  # the other layouts go on
            yield Row("decode 8B", name, None, note=str(error)[:120])
            continue
        rates[name] = 1 / pace.step_s
        # Of an embedding that is not the head too, a step reads a row for each token.
        mbu = (pace.read_bytes - core.model.embedding_bytes) / pace.step_s / machine.copy_bytes_per_s
        yield Row("decode 8B", f"{name}: MBU, batch 1, {context} context", mbu, "", 0.85 if name == "bf16" else None)
        yield Row("decode 8B", f"{name}: rate", rates[name], "tok/s")
        if name in _TARGETS and "bf16" in rates:
            yield Row("decode 8B", f"{name}: rate over bf16", rates[name] / rates["bf16"], "x", _TARGETS[name])
        stats = core.stats()
        yield Row("decode 8B", f"{name}: made, compiled, captured and run", ready_s, "s", is_cost=True)
        yield Row("decode 8B", f"{name}: memory of {stats.graphs} graphs", stats.graph_bytes / 2**20, "MiB")
        del core
        machine.clear()


def prefill_8b(machine: Machine) -> Iterator[Row]:
    """A prompt of 8k tokens: the share of the products' rate."""
    config, length = shape_8b(machine), 256 if machine.is_dry else 8192
    core = random_core(config, machine, StepLimits(8, length), max_model_len=2 * length, kv_tokens=4 * length)
    seconds = []
    for number in range(4):
        core.add(NewRequest(request_id=f"r{number}", prompt=_prompt(config, length, number), params=_params(1)), 1)
        seconds.append(_drained(core, machine))
    best = min(seconds[1:])
    layers = config.num_parameters - 2 * config.vocab_size * config.hidden_size
    operations = 2 * length * layers + 2 * length**2 * config.num_layers * config.num_heads * config.head_dim
    yield Row("prefill 8B", f"{length} tokens: MFU", operations / best / machine.operations_per_s, "", 0.60)
    yield Row("prefill 8B", "rate", length / best, "tok/s")
    yield Row("prefill 8B", "first time, kernels compiled", seconds[0], "s", is_cost=True)


def workload(machine: Machine) -> Iterator[Row]:
    """256 sequences of 100 to 1,024 tokens in and out (the script of GeeeekExplorer/nano-vllm), beside transformers."""
    config, count, most = shape_600m(machine), *((6, 40) if machine.is_dry else (256, 1024))
    chance = random.Random(0)
    lengths = [(chance.randint(most // 10, most), chance.randint(most // 10, most)) for _ in range(count)]
    total = sum(sum(pair) for pair in lengths)
    core = random_core(config, machine, StepLimits(count, 8192), max_model_len=2 * most, kv_tokens=total + 16 * count)
    for phase in ("kernels compiled", "measured"):
        for number, (prompt, output) in enumerate(lengths):
            request_id = f"{phase}-{number}"
            tokens = _prompt(config, prompt, number)
            core.add(NewRequest(request_id=request_id, prompt=tokens, params=_params(output, 0.6, number)), number)
        before = core.stats()
        spent = _drained(core, machine)
        after = core.stats()
        if phase != "measured":
            yield Row("workload", "first time, kernels compiled and graphs captured", spent, "s", is_cost=True)
    made = sum(output for _, output in lengths)
    read = after.read_bytes - before.read_bytes
    yield Row("workload", f"{count} sequences, {made} tokens: rate", made / spent, "tok/s")
    yield Row(
        "workload", "share of the weight and KV bandwidth limit", read / spent / machine.copy_bytes_per_s, "", 0.6
    )
    del core
    machine.clear()
    theirs = _transformers_rate(config, machine, lengths[: 4 if machine.is_dry else 32])
    if theirs is None:
        yield Row("workload", "over transformers' generate", None, note="transformers is not installed: NOT COMPARED")
    else:
        yield Row("workload", "transformers' generate, 32 at a time", theirs, "tok/s")
        yield Row("workload", "over transformers' generate", made / spent / theirs, "x", 10.0)


def host(machine: Machine) -> Iterator[Row]:
    """64 sequences: what the host takes of a step, and how long the device waits between two."""
    for name, config, share in (("8B", shape_8b(machine), 0.05), ("0.6B", shape_600m(machine), None)):
        rows, context = (4, 40) if machine.is_dry else (64, 512)
        tokens = max(rows * (context + 512), 8192)
        core = random_core(config, machine, StepLimits(rows, 4096), max_model_len=8192, kv_tokens=tokens)
        pace = steady(core, machine, sequences=rows, context=context, steps=24 if machine.is_dry else 192)
        yield Row("host", f"{name}, batch {rows}: a step", pace.step_s * 1e3, "ms", is_cost=True)
        yield Row("host", f"{name}, batch {rows}: host at work in a step", pace.host_s * 1e6, "us", 300.0, is_cost=True)
        is_judged = share is not None
        value = pace.host_s / pace.step_s
        yield Row(
            "host", f"{name}, batch {rows}: share of the step", value, "", share if is_judged else None, is_cost=True
        )
        idle = _idle_share(core, machine, rows, context)
        if idle is not None:
            yield Row("host", f"{name}, batch {rows}: share of time the device is idle", idle, "", is_cost=True)
        del core
        machine.clear()


def steady(core: EngineCore, machine: Machine, *, sequences: int, context: int, steps: int) -> Pace:
    """The pace of `steps` steps that decode so many sequences around a context; medians, after a first third that warms up."""
    vocab = core.scheduler.config.vocab_size
    for number in range(sequences):
        prompt = [(7 * number + 3 * at) % vocab for at in range(context)]
        core.add(NewRequest(request_id=f"s{number}", prompt=prompt, params=_params(2 * steps)), number)
    while any(len(each.tokens) == each.prompt_len for each in _running(core)) or not _running(core):
        core.step()
    seconds: list[float] = []
    hosts: list[float] = []
    reads: list[float] = []
    for _ in range(steps + steps // 3):
        before, started = core.stats(), time.perf_counter()
        core.step()
        seconds.append(time.perf_counter() - started)
        after = core.stats()
        hosts.append(after.host_s - before.host_s)
        reads.append(after.read_bytes - before.read_bytes)
    for number in range(sequences):
        core.abort(f"s{number}")
    _drained(core, machine)
    counted = slice(steps // 3, None)
    return Pace(*(float(statistics.median(each[counted])) for each in (seconds, hosts, reads)))


def _running(core: EngineCore) -> list[Sequence]:
    return list(core.scheduler._running)  # noqa: SLF001 - to know when prompts are computed


def _idle_share(core: EngineCore, machine: Machine, rows: int, context: int) -> float | None:
    """Of a second of steady decoding, what the device does not compute; from its own record. None on a CPU."""
    if machine.device.type != "cuda":
        return None
    vocab = core.scheduler.config.vocab_size
    for number in range(rows):
        prompt = [(5 * number + at) % vocab for at in range(context)]
        core.add(NewRequest(request_id=f"i{number}", prompt=prompt, params=_params(256)), number)
    while any(len(each.tokens) < each.prompt_len + 8 for each in _running(core)) or not _running(core):
        core.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        started = time.perf_counter()
        for _ in range(32):
            core.step()
        machine.wait()
        spent = time.perf_counter() - started
    busy_us: float = sum(event.self_device_time_total for event in profile.key_averages())
    for number in range(rows):
        core.abort(f"i{number}")
    _drained(core, machine)
    return max(0.0, 1 - busy_us / 1e6 / spent)


def _drained(core: EngineCore, machine: Machine) -> float:
    started = time.perf_counter()
    while core.has_work:
        core.step()
    machine.wait()
    return time.perf_counter() - started


def _prompt(config: ModelConfig, length: int, seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(config.vocab_size) for _ in range(length)]


def _params(tokens: int, temperature: float = 0.0, seed: int = 0) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, temperature=temperature, seed=seed, ignore_eos=True)


def _transformers_rate(config: ModelConfig, machine: Machine, lengths: list[tuple[int, int]]) -> float | None:
    """Tokens per second of `generate` over some of the sequences in one padded batch; None without transformers."""
    try:
        from transformers import Qwen3Config, Qwen3ForCausalLM
    except ImportError:
        sys.stderr.write("transformers is not installed: the comparison is left out\n")
        return None
    theirs = Qwen3Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        tie_word_embeddings=True,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.device(machine.device):
        model: Any = Qwen3ForCausalLM(theirs)
    model = model.to(torch.float32 if machine.is_dry else torch.bfloat16).eval()
    longest = max(prompt for prompt, _ in lengths)
    ids = torch.randint(1, config.vocab_size, (len(lengths), longest), device=machine.device)
    mask = torch.zeros_like(ids)
    for row, (prompt, _) in enumerate(lengths):
        mask[row, longest - prompt :] = 1
    new = min(max(output for _, output in lengths), 8 if machine.is_dry else 256)
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "attention_mask": mask}
    model.generate(ids[:, -8:], max_new_tokens=2, do_sample=False, attention_mask=mask[:, -8:])
    machine.wait()
    started = time.perf_counter()
    model.generate(ids, **options)
    machine.wait()
    # Sequences of a padded batch end together: what counts is what each of them was to get.
    return sum(min(output, new) for _, output in lengths) / (time.perf_counter() - started)
