"""Compile for sm_90 what a step of an 8B model, a mixture of experts and the sampler launch; a line for each launch."""

import torch

from servery.engine.cuda.attention import PagedAttention
from servery.engine.cuda.coded_weight import CodedWeight
from servery.engine.cuda.experts import StackedWeight, _Choices
from servery.engine.cuda.kernels import experts as expert_kernels
from servery.engine.cuda.rotation import Rotation
from servery.engine.cuda.rowwise import FusedNorm, gated, rounded_to_float8
from servery.engine.cuda.sampling import sample
from servery.engine.kv import KVCache
from servery.engine.kv_format import BFLOAT16, FLOAT32, FP8, INT8
from servery.engine.norm import RMSNorm
from servery.engine.quantization.matrix import CodebookMatrix, DenseMatrix, Float8Matrix, GroupMatrix
from servery.engine.request import SamplingParams
from servery.engine.sampler import SamplingRow
from servery.engine.traits import GELU_TANH, SILU, Clamp
from tests.engine.attention.world import shape
from tests.engine.cuda.compiling import compiled_launches
from tests.engine.cuda.test_sampling import on_device
from tests.engine.cuda.world import Rows

BF16 = torch.bfloat16


def zeros(*size: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.zeros(size, dtype=dtype)


def attend(config, kv_format, rows: int, count: int, dtype: torch.dtype = BF16, **options) -> None:
    cache, context = KVCache(config, 8, 16, dtype, kv_format=kv_format), 4096
    lens, starts = torch.full((rows,), context).int(), (torch.arange(rows + 1) * count).int()
    batch = Rows(zeros(rows, context // 16, dtype=torch.int32), lens, starts, count, context, rows, rows * count)
    query = zeros(rows * count, config.num_heads * config.head_dim, dtype=dtype)
    PagedAttention(config, **options).plan(batch, cache).attend(0, query)


def compile_all() -> None:
    llama = shape(8, 4, 128, (None,))
    for kv_format in (BFLOAT16, INT8, FP8):
        attend(llama, kv_format, 4, 1)
        attend(llama, kv_format, 2, 512)
    attend(llama, BFLOAT16, 4, 1, invariant=True)
    attend(llama, FLOAT32, 2, 64, torch.float32)
    attend(shape(8, 2, 256, (1024,), attention_soft_cap=50.0), BFLOAT16, 2, 64)
    weights = [
        GroupMatrix(zeros(256, 512, dtype=torch.int8), zeros(256, 1, dtype=torch.float32)),
        GroupMatrix(zeros(256, 256, dtype=torch.uint8), zeros(256, 4), zeros=zeros(256, 4, dtype=torch.uint8), bits=4),
        Float8Matrix(zeros(256, 512, dtype=torch.float8_e4m3fn), zeros(256, 1, dtype=torch.float32)),
        CodebookMatrix(zeros(256, 256, dtype=torch.uint8), zeros(16, dtype=torch.float32), zeros(256, 16)),
        DenseMatrix(zeros(256, 512)),
    ]
    choices = _Choices.of(zeros(4, 8, dtype=torch.int64), 16)
    for matrix in weights:
        weight = CodedWeight.of(matrix)
        weight.product(zeros(1, 512), splits=2)
        weight.product(zeros(64, 512), zeros(256))
        weight.values(BF16)
        StackedWeight.of([(matrix, zeros(256))] * 16).product(zeros(4, 512), choices, 8, invariant=False)
    expert_kernels.sum_chosen[(4, 1)](
        zeros(4, 256), zeros(32, 256), choices.places, zeros(4, 8), SIZE=256, PER_ROW=8, BLOCK=1024
    )
    FusedNorm(zeros(4096, dtype=torch.float32), 1.0)(zeros(4, 4096), zeros(4, 4096))
    for activation in (SILU, GELU_TANH, Clamp(1.7, 7.0)):
        gated(zeros(4, 1024), activation)
    rounded_to_float8(zeros(4, 4096))
    table, numbers = zeros(64, 2, 1, 128), zeros(4, dtype=torch.int64)
    for kv_format in (BFLOAT16, INT8, FP8):
        cache = KVCache(llama, 8, 16, BF16, kv_format=kv_format)
        Rotation(32, 8, 128, RMSNorm(zeros(40, 128), 1e-6))(zeros(4, 48 * 128), table, numbers, numbers, cache, 0)
    rows = [SamplingRow(SamplingParams(top_p=0.5), 1, 2, 0, [])] * 2
    sample(zeros(2, 151_936, dtype=torch.float32), on_device(rows))


if __name__ == "__main__":
    with compiled_launches() as launches:
        compile_all()
    for launch in launches:
        print(launch.name, launch.shared_bytes, launch.registers, launch.stack_bytes)
