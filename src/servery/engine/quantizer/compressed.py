"""Quantized weights as the ecosystem stores them: compressed-tensors, formats `pack-quantized` and `float-quantized`.

The first is what vLLM and transformers read as W8A16 and W4A16: `weight_packed` [N, K * bits / 32] int32 with neighbours in a
row lowest bits first, each code plus 2^(bits - 1); `weight_scale` [N, G]; `weight_shape` [2]; and with zero points
`weight_zero_point` [N * bits / 32, G] int32, packed along the output channels. The second is FP8_DYNAMIC: `weight` [N, K]
e4m3 and `weight_scale` [N, 1], for inputs that are rounded to float8 too, each token by a scale of its own. Source:
vllm-project/compressed-tensors, compressors/pack_quantized and naive_quantized, quantization/quant_scheme.py.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from servery.engine.architecture import ModelConfig
from servery.engine.quantization.matrix import Float8Matrix, GroupMatrix
from servery.engine.quantization.scheme import Rounding, RoundingPlan
from servery.engine.weight_map import targets_of

_CODES_PER_WORD = {4: 8, 8: 4}


def stored_tensors(module: str, matrix: GroupMatrix | Float8Matrix) -> dict[str, Tensor]:
    """The tensors that `module` is stored as, by name; `matrix` comes from `coded`."""
    if isinstance(matrix, Float8Matrix):
        return {f"{module}.weight": matrix.codes.contiguous(), f"{module}.weight_scale": matrix.scales.contiguous()}
    codes = matrix.integers()
    tensors = {
        "weight_packed": _packed(codes if matrix.bits == 4 else codes.view(torch.uint8) ^ 128, matrix.bits),
        "weight_scale": matrix.scales,
        "weight_shape": torch.tensor(matrix.shape),
    }
    if isinstance(matrix.zeros, Tensor):
        tensors["weight_zero_point"] = _packed(matrix.zeros.t(), matrix.bits).t()
    return {f"{module}.{name}": tensor.contiguous() for name, tensor in tensors.items()}


def _packed(codes: Tensor, bits: int) -> Tensor:
    """uint8 [R, C] as words [R, ceil(C * bits / 32)] int32."""
    codes = F.pad(codes, (0, -codes.shape[1] % _CODES_PER_WORD[bits])).contiguous()
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    words: Tensor = (codes.int().view(len(codes), -1, len(shifts)) << shifts).sum(2, dtype=torch.int32)
    return words


def quantization_config(config: ModelConfig, plan: RoundingPlan) -> dict[str, Any]:
    """What config.json says of a checkpoint quantized by `plan`."""
    common = max(plan.roundings.values(), key=lambda each: each.group_size or 0)
    others = [module for module, each in plan.roundings.items() if each != common]
    groups = {"group_0": _scheme(common, ["Linear"])}
    if others:
        groups["group_1"] = _scheme(plan.roundings[others[0]], sorted(set(map(_pattern, others))))
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized" if common.is_float else "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [*_dense_modules(config, plan.roundings), "lm_head"],
    }


def _pattern(module: str) -> str:
    """A target for the module in each layer and each expert; it is of the same width there."""
    within = module.partition(".layers.")[2].partition(".")[2]
    return "re:.*" + re.sub(r"\d+", r"\\d+", re.escape(f".{within}")) + "$"


def _scheme(rounding: Rounding, targets: list[str]) -> dict[str, Any]:
    weights = {
        "num_bits": rounding.bits,
        "type": "float" if rounding.is_float else "int",
        "symmetric": rounding.group_size is None,
        "strategy": "channel" if rounding.group_size is None else "group",
        "group_size": rounding.group_size,
        "dynamic": False,
    }
    inputs = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": inputs if rounding.is_float else None,
        "output_activations": None,
    }


def _dense_modules(config: ModelConfig, roundings: Mapping[str, Rounding]) -> list[str]:
    """The linear layers that stay dense, but the head."""
    sources = [
        each for target in targets_of(config) if target.is_matrix and "." in target.key for each in target.sources
    ]
    return [source.module for source in sources if source.module not in roundings]
