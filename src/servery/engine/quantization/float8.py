"""Checkpoints whose weights are 8-bit floats: `fp8` as DeepSeek, Qwen and AutoFP8 write it, and `fbgemm_fp8`.

Layout: `weight` [N, K] e4m3 with `weight_scale_inv` or `weight_scale`, by block, for each row or for the tensor; both
names mean what a code is multiplied by. w = code * scale in float32. Source: transformers,
integrations/finegrained_fp8.py (`Fp8Dequantize`); deepseek-ai/DeepSeek-V3, inference/kernel.py (`weight_dequant`);
neuralmagic/AutoFP8.

Activations are not rounded to 8 bits, so their scales (`input_scale`, `activation_scale`) are passed over: the result
is the one that the weights define, without the error that rounding them would add.
"""

import torch

from servery.engine.cut import Cut
from servery.engine.quantization.config import Float8Config
from servery.engine.quantization.dividing import COLUMNS, ROWS, spread_axes
from servery.engine.quantization.format import FLOATS, StoredModule, dense_matrix
from servery.engine.quantization.matrix import Float8Matrix, Matrix
from servery.engine.quantization.stored_codes import FLOATS8, has_codes, load_float8, load_spread

ACTIVATION_SCALES = frozenset({"activation_scale", "input_scale", "input_scale_ub", "q_scale", "k_scale", "v_scale"})


class Float8Format:
    """The matrices of an FP8 checkpoint; modules in other types are dense."""

    def __init__(self, config: Float8Config) -> None:
        self._config = config

    def matrix(self, module: str, shape: tuple[int, int], stored: StoredModule) -> Matrix:
        """The matrix `shape` of `module`."""
        if not has_codes(stored, "weight", is_skipped=module in self._config.skipped, dtypes=FLOATS8):
            return dense_matrix(stored, shape)
        codes = load_float8(stored, "weight", shape)
        block = self._config.block
        name = "weight_scale" if "weight_scale" in stored else "weight_scale_inv"
        scales = load_spread(stored, name, shape, FLOATS | {"F8_E8M0"}, block=block)
        width = None if block is None else block[1]
        return Float8Matrix(codes, scales.float(), arithmetic=torch.float32, group_size=width)

    def divided(self, stored: StoredModule, shape: tuple[int, int], cut: Cut) -> StoredModule | None:
        """Some of the codes, and whole blocks of scales."""
        name = "weight_scale" if "weight_scale" in stored else "weight_scale_inv"
        scales = spread_axes(stored.shape_of(name), block=self._config.block)
        return stored.part(shape, cut, {"weight": (ROWS, COLUMNS), name: scales})

    def is_redundant(self, name: str) -> bool:
        """Scales of activations and of the KV cache."""
        return name.rpartition(".")[2] in ACTIVATION_SCALES
