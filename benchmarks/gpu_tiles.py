"""Find what is quickest on this GPU: tiles of attention and of products with codes, and where torch's attention is quicker.

python -m benchmarks.gpu_tiles [--keep]

Everything is timed as a step launches it, by a graph, at the shapes of an 8B model. --keep writes what was found into the
package, under the GPU's name, where engines that start on such a GPU read it. Takes two to four minutes, most of it
compiling.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence

import torch

from servery.engine.architecture import ModelConfig
from servery.engine.cuda.attention import PagedAttention
from servery.engine.cuda.attention_choice import OURS, VARLEN, Backend, quickest
from servery.engine.cuda.coded_weight import CodedWeight
from servery.engine.cuda.measured import DENSE, Measured, keep
from servery.engine.cuda.rivals import VarlenAttention
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
_REPEATS = 10


class Rows:
    """A batch of `rows` with `tokens` each at the end of a context, whose blocks lie anywhere."""

    def __init__(self, rows: int, tokens: int, context: int, device: torch.device) -> None:
        width = context // _BLOCK
        self.block_tables = torch.randperm(rows * width, device=device).view(rows, width).int()
        self.context_lens = torch.full((rows,), context, dtype=torch.int32, device=device)
        self.query_starts = torch.arange(rows + 1, dtype=torch.int32, device=device) * tokens
        self.max_query_tokens, self.longest_context = tokens, context
        self.num_rows, self.num_tokens = rows, rows * tokens


def replayed_s(call: Callable[[], object]) -> float:
    """Seconds of one call, of some that a graph launches one after the other; the quickest of five rounds."""
    call()  # compiles, outside of the graph
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_REPEATS):
            call()
    best = float("inf")
    for _ in range(6):
        torch.cuda.synchronize()
        started = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best / _REPEATS


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


def attention_tiles(device: torch.device) -> dict[tuple[int, int, int], TileTable]:
    """The quickest tiles for each size of stored values."""
    config, found = attention_config(), {}
    for name in ("bfloat16", "fp8"):
        kv_format = resolve_kv_format(name, torch.bfloat16, str(device))
        cache = KVCache(config, _ROWS * _CONTEXT // _BLOCK, _BLOCK, torch.bfloat16, str(device), kv_format)
        few, many = Rows(_ROWS, 1, _CONTEXT, device), Rows(1, _PROMPT, _CONTEXT, device)
        sizes = (config.head_dim, torch.bfloat16.itemsize, kv_format.dtype.itemsize)
        found[sizes] = search_attention(config, cache, few, many, replayed_s)
        print(f"attention, {name}: {found[sizes]}", flush=True)
    return found


def backends(device: torch.device, tiles: dict[tuple[int, int, int], TileTable]) -> dict[StepShape, str]:
    """Shapes for which torch's `varlen_attn` is quicker over the same pages, if it takes them."""
    config, seconds = attention_config(), {}
    cache = KVCache(config, _ROWS * _CONTEXT // _BLOCK, _BLOCK, torch.bfloat16, str(device))
    ours = PagedAttention(config, tiles=tiles[config.head_dim, 2, 2])
    ways: dict[str, Backend] = {OURS: ours, VARLEN: VarlenAttention(config)}
    for batch in (Rows(1, 1, _CONTEXT, device), Rows(_ROWS, 1, _CONTEXT, device), Rows(1, _PROMPT, _PROMPT, device)):
        query = torch.zeros(batch.num_tokens, 4096, dtype=torch.bfloat16, device=device)
        times = {}
        for name, way in ways.items():
            plan = way.plan(batch, cache)
            try:
                times[name] = replayed_s(lambda plan=plan, query=query: plan.attend(0, query))  # type: ignore[misc]
            except RuntimeError as error:
                print(f"{name} does not take it: {str(error).splitlines()[0]}", flush=True)
        shape = StepShape.bounding(batch.max_query_tokens, batch.num_rows, batch.longest_context)
        seconds[shape] = times
        print(f"{shape}: {times}", flush=True)
    return quickest(seconds)


def products(device: torch.device, found: Measured) -> Measured:
    """The quickest tiles for few rows, and the number of rows that is many, for each layout."""
    tiles, many = {}, {}
    for layout, matrix in _matrices(device).items():
        weight = CodedWeight.of(matrix)
        assert weight is not None
        x = torch.zeros(_COUNTS[-1], _K, dtype=torch.bfloat16, device=device)
        tile = search_product(weight, x[:1], replayed_s)
        rows = search_many_rows(weight, x, _COUNTS, tile, replayed_s)
        if layout == DENSE and rows == _COUNTS[0]:
            print("dense: cuBLAS, whatever the number of rows", flush=True)
            continue
        tiles[layout], many[layout] = tile, rows
        share = weight.nbytes / replayed_s(lambda weight=weight, x=x: weight.product(x[:1]))  # type: ignore[misc]
        print(f"{layout}: {tiles[layout]}, many from {many[layout]} rows, {share / 1e9:.0f} GB/s for one", flush=True)
    return Measured(found.attention, tiles, many, found.backends)


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


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status is 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="write what was found into the package")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write("there is no GPU that torch finds, and nothing else to find tiles for.\n")
        return 2
    device = torch.device("cuda", 0)
    with torch.inference_mode():
        tiles = attention_tiles(device)
        found = products(device, Measured(tiles, backends=backends(device, tiles)))
    name = torch.cuda.get_device_name(device)
    print(json.dumps({name: found.as_json()}))
    if options.keep:
        print(f"kept in {keep(name, found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
