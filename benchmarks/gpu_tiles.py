"""Find what is quickest on this GPU: tiles of attention and of products with codes, where torch's attention is quicker,
and by whom norms, rotation and gates are computed.

python -m benchmarks.gpu_tiles [--keep]

Everything is timed as a step launches it, by a graph, at the shapes of an 8B model. --keep writes what was found into the
package, under the GPU's name, where engines that start on such a GPU read it, after each part. Takes some minutes, most of
it compiling.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from benchmarks.gpu.parts import Machine
from benchmarks.gpu.small_part import measured, summed
from benchmarks.gpu.small_part import quickest as quickest_ways
from servery.engine.architecture import ModelConfig
from servery.engine.cuda.attention import PagedAttention
from servery.engine.cuda.attention_choice import FLEX, OURS, VARLEN, Backend, quickest
from servery.engine.cuda.coded_weight import CodedWeight
from servery.engine.cuda.measured import DENSE, Measured, keep
from servery.engine.cuda.rivals import FlexAttention, VarlenAttention
from servery.engine.cuda.small_kernels import TRITON
from servery.engine.cuda.step_shape import StepShape
from servery.engine.cuda.tile_search import search_attention, search_many_rows, search_product
from servery.engine.cuda.tiles import TileTable
from servery.engine.kv import KVCache
from servery.engine.kv_format import resolve_kv_format
from servery.engine.quantization.matrix import DenseMatrix, Float8Matrix, GroupMatrix, Matrix
from servery.engine.rope_config import RopeConfig

_BLOCK, _CONTEXT, _ROWS, _PROMPT = 16, 8192, 32, 4096
# Larger than any cache, so that weights come from memory.
_N, _K = 57_344, 4096
_COUNTS = (1, 16, 32, 48, 64, 96, 128, 192, 256, 384)
# Rows, tokens of each, and contexts, for which torch's ways are tried: decoding, and prompts.
_SHAPES = (
    *((rows, 1, context) for rows in (1, 32, 128) for context in (2048, 8192)),
    (1, 1, 32_768),
    (1, 2048, 2048),
    (1, _CONTEXT, _CONTEXT),
)
# Of an 8B model: what is prepared for a step is for all of them.
_LAYERS = 32


class Rows:
    """A batch of `rows` with `tokens` each at the end of a context, whose blocks lie anywhere."""

    def __init__(self, rows: int, tokens: int, context: int, device: torch.device) -> None:
        width = context // _BLOCK
        self.block_tables = torch.randperm(rows * width, device=device).view(rows, width).int()
        self.context_lens = torch.full((rows,), context, dtype=torch.int32, device=device)
        self.query_starts = torch.arange(rows + 1, dtype=torch.int32, device=device) * tokens
        self.max_query_tokens, self.longest_context = tokens, context
        self.num_rows, self.num_tokens = rows, rows * tokens


def attention_config() -> ModelConfig:
    """One layer with the heads of an 8B model."""
    return ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=8,
        hidden_size=4096,
        intermediate_size=8,
        num_layers=1,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        max_position=1 << 17,
        norm_eps=1e-5,
        ropes=(RopeConfig(theta=5e5),),
        windows=(None,),
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        qk_norm=False,
        tie_embeddings=False,
        eos_token_ids=frozenset(),
        dtype="bfloat16",
    )


def attention_tiles(machine: Machine) -> dict[tuple[int, int, int], TileTable]:
    """The quickest tiles for each size of stored values."""
    config, found, device = attention_config(), {}, machine.device
    for name in ("bfloat16", "fp8"):
        kv_format = resolve_kv_format(name, torch.bfloat16, str(device))
        cache = KVCache(config, _ROWS * _CONTEXT // _BLOCK, _BLOCK, torch.bfloat16, str(device), kv_format)
        few, many = Rows(_ROWS, 1, _CONTEXT, device), Rows(1, _PROMPT, _CONTEXT, device)
        sizes = (config.head_dim, torch.bfloat16.itemsize, kv_format.dtype.itemsize)
        found[sizes] = search_attention(config, cache, few, many, machine.replayed_s)
        print(f"attention, {name}: {found[sizes]}", flush=True)
    return found


def backends(machine: Machine, tiles: dict[tuple[int, int, int], TileTable]) -> dict[StepShape, str]:
    """Shapes for which torch's `varlen_attn` or FlexAttention is quicker over the same pages, if it takes them.

    What a way has to prepare for a step, once for all layers, is part of its time.
    """
    config, seconds = attention_config(), {}
    ours = PagedAttention(config, tiles=tiles[config.head_dim, 2, 2])
    ways: dict[str, Callable[[], Backend]] = {
        OURS: lambda: ours,
        VARLEN: lambda: VarlenAttention(config),
        FLEX: lambda: FlexAttention(config),
    }
    for rows, tokens, context in _SHAPES:
        batch = Rows(rows, tokens, context, machine.device)
        cache = KVCache(config, rows * context // _BLOCK, _BLOCK, torch.bfloat16, str(machine.device))
        query = torch.zeros(batch.num_tokens, 4096, dtype=torch.bfloat16, device=machine.device)
        shape, times = StepShape.bounding(batch.max_query_tokens, batch.num_rows, batch.longest_context), {}
        for name, make in ways.items():
            try:
                way = make()
                times[name] = machine.replayed_s(partial(_step, way, batch, cache, query), 2)
            except (RuntimeError, ValueError, TypeError, NotImplementedError, ImportError) as error:
                print(f"{name} does not take it: {(str(error).splitlines() or [''])[0]}", flush=True)
        seconds[shape] = times
        print(f"{shape}: {times}", flush=True)
        del cache
        machine.clear()
    return quickest(seconds)


def _step(way: Backend, batch: Rows, cache: KVCache, query: torch.Tensor) -> None:
    plan = way.plan(batch, cache)
    for _ in range(_LAYERS):
        plan.attend(0, query)


def products(machine: Machine, found: Measured) -> Measured:
    """The quickest tiles for few rows, and the number of rows that is many, for each layout."""
    tiles, many = {}, {}
    for layout, matrix in _matrices(machine.device).items():
        weight = CodedWeight.of(matrix)
        assert weight is not None
        x = torch.zeros(_COUNTS[-1], _K, dtype=torch.bfloat16, device=machine.device)
        tile = search_product(weight, x[:1], machine.replayed_s)
        rows = search_many_rows(weight, x, _COUNTS, tile, machine.replayed_s)
        if layout == DENSE and rows == _COUNTS[0]:
            print("dense: cuBLAS, whatever the number of rows", flush=True)
            continue
        tiles[layout], many[layout] = tile, rows
        share = weight.nbytes / machine.replayed_s(lambda weight=weight, x=x: weight.product(x[:1]))  # type: ignore[misc]
        print(f"{layout}: {tiles[layout]}, many from {many[layout]} rows, {share / 1e9:.0f} GB/s for one", flush=True)
    return replace(found, product=tiles, many_rows=many)


def _matrices(device: torch.device) -> dict[str, Matrix]:
    def zeros(columns: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(_N, columns, dtype=dtype, device=device)

    groups = _K // 128
    return {
        DENSE: DenseMatrix(zeros(_K, torch.bfloat16)),
        "int8": GroupMatrix(zeros(_K, torch.int8), zeros(1, torch.float32)),
        "int4": GroupMatrix(
            zeros(_K // 2, torch.uint8), zeros(groups, torch.bfloat16), zeros=zeros(groups, torch.uint8), bits=4
        ),
        "fp8": Float8Matrix(zeros(_K, torch.uint8).view(torch.float8_e4m3fn), zeros(1, torch.float32)),
    }


def _with_tiles(machine: Machine, found: Measured) -> Measured:
    return replace(found, attention=attention_tiles(machine))


def _with_small(machine: Machine, found: Measured) -> Measured:
    """What is computed between products otherwise than by Triton."""
    ways = quickest_ways(summed(measured(machine)))
    print(f"between products: {ways}", flush=True)
    return replace(found, small={part: way for part, way in ways.items() if way != TRITON})


def _with_backends(machine: Machine, found: Measured) -> Measured:
    return replace(found, backends=backends(machine, dict(found.attention)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status is 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="write what was found into the package")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write("there is no GPU that torch finds, and nothing else to find tiles for.\n")
        return 2
    machine = Machine(torch.device("cuda", 0), is_dry=False)
    name = torch.cuda.get_device_name(machine.device)
    found = Measured()
    with torch.inference_mode():
        for part in (_with_tiles, products, _with_small, _with_backends):  # the longest last: what is found is kept
            found = part(machine, found)
            print(json.dumps({name: found.as_json()}), flush=True)
            if options.keep:
                print(f"kept in {keep(name, found)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
