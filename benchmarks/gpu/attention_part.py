"""Attention of decoding alone: the share of the copy bandwidth by context and batch, and beside torch's own kernels."""

import importlib
from collections.abc import Callable, Iterator

import torch

from benchmarks.gpu.parts import Machine, Row
from benchmarks.gpu.random_model import shape_8b
from servery.engine.architecture import ModelConfig
from servery.engine.attention.backend import AttentionBackend
from servery.engine.attention.reference import ReferenceAttention
from servery.engine.batch import Batch
from servery.engine.device_batch import DeviceBatch
from servery.engine.device_kernels import open_device_kernels
from servery.engine.kv import KVCache
from servery.engine.kv_format import BFLOAT16, KVFormat, resolve_kv_format

_BLOCK = 16
_REPEATS = 20
# More than the caches of any GPU hold.
_FAR_BYTES = 1 << 29


def attention(machine: Machine) -> Iterator[Row]:
    """8 key heads of 128, contexts 4k to 32k, batch 1 to 256 as far as memory goes; keys and values in three types."""
    config = _one_layer(machine)
    backend = _ours(machine, config)
    dtype = torch.float32 if machine.is_dry else torch.bfloat16
    contexts, batches = ((64,), (1, 4)) if machine.is_dry else ((4096, 8192, 32_768), (1, 8, 32, 64, 128, 256))
    for kv_dtype in ("auto",) if machine.is_dry else ("auto", "fp8", "int8"):
        kv_format = resolve_kv_format(kv_dtype, dtype, str(machine.device))
        for context in contexts:
            for rows in batches:
                nbytes = rows * context * kv_format.bytes_per_token(config)
                if not _has_room(machine, nbytes) or (kv_dtype != "auto" and rows not in {1, 64}):
                    continue
                share = _share(config, backend, machine, kv_format, rows, context, _BLOCK)
                name = f"{kv_format.name}, {context} context, batch {rows}: share of copy bandwidth"
                yield Row("attention", name, share, "", 0.8 if kv_dtype == "auto" else None)
                machine.clear()


def _has_room(machine: Machine, nbytes: int) -> bool:
    """Whether keys and values fit, with some room besides."""
    return machine.device.type != "cuda" or nbytes * 1.05 + (1 << 30) < torch.cuda.mem_get_info(machine.device)[0]


def _share(
    config: ModelConfig,
    backend: AttentionBackend,
    machine: Machine,
    kv_format: KVFormat,
    rows: int,
    context: int,
    block: int,
) -> float:
    """Of the copy bandwidth, over as many contexts as no cache of the device holds."""
    device, dtype = machine.device, torch.float32 if machine.is_dry else torch.bfloat16
    width = context // block
    bytes_once = rows * context * kv_format.bytes_per_token(config)
    copies = 1 if machine.is_dry else min(_REPEATS, -(-_FAR_BYTES // bytes_once))
    cache = KVCache(config, copies * rows * width, block, dtype, str(device), kv_format)
    order = torch.randperm(copies * rows * width).view(copies, rows, width).tolist()
    batches = [
        DeviceBatch.of(Batch.build([([1], context - 1, table) for table in tables], block), device) for tables in order
    ]
    query = torch.randn(rows, config.num_heads * config.head_dim, device=device).to(dtype)

    def all_of_them() -> None:
        for number in range(_REPEATS):
            backend.plan(batches[number % copies], cache).attend(0, query)

    with torch.inference_mode():
        seconds = machine.best_s(all_of_them, 2)  # compiles
        if device.type == "cuda":  # as in a step: launched by a graph, without the host between two kernels
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                all_of_them()
            seconds = machine.best_s(graph.replay, 4)
    return _REPEATS * bytes_once / seconds / machine.copy_bytes_per_s


def rivals(machine: Machine) -> Iterator[Row]:
    """What else torch has, at two shapes: `varlen_attn` over block tables of pages it takes, and FlexAttention."""
    if machine.is_dry:
        yield Row("rivals", "needs a GPU: torch's paged attention has no other device", 0.0)
        return
    made = importlib.import_module("servery.engine.cuda.rivals")
    config = _one_layer(machine)
    contenders: list[tuple[str, Callable[[], AttentionBackend], int]] = [
        ("ours", lambda: _ours(machine, config), _BLOCK),
        ("varlen_attn", lambda: made.VarlenAttention(config), _BLOCK),
        ("varlen_attn, pages of 256", lambda: made.VarlenAttention(config), 256),
        ("FlexAttention", lambda: made.FlexAttention(config), _BLOCK),
    ]
    for name, make, block in contenders:
        for context, rows in ((8192, 32), (32_768, 1)):
            told = f"{name}, {context} context, batch {rows}: share of copy bandwidth"
            try:
                yield Row("rivals", told, _share(config, make(), machine, BFLOAT16, rows, context, block))
            except (RuntimeError, ValueError, TypeError, NotImplementedError, ImportError) as error:
                yield Row("rivals", told, 0.0, note=f"not taken: {str(error)[:100]}")
            machine.clear()


def _one_layer(machine: Machine) -> ModelConfig:
    return shape_8b(machine).only_layer(0)


def _ours(machine: Machine, config: ModelConfig) -> AttentionBackend:
    dtype = torch.float32 if machine.is_dry else torch.bfloat16
    kernels = open_device_kernels(machine.device, dtype, "auto", batch_invariant=False)
    backend: AttentionBackend | None = None if kernels is None else kernels.attention(config, [None])
    return backend or ReferenceAttention(config)
