"""Checkpoints by llm-compressor in the formats of the package compressed-tensors.

Layouts: `pack-quantized` has `weight_packed` [N, K * bits / 32] int32, neighbours in a row lowest bits first, each
code plus 2^(bits - 1); `weight_shape` [2]; `weight_scale`; and if not symmetric `weight_zero_point`
[N * bits / 32, G] int32, packed along the output channels. The others have `weight` [N, K] int8 or e4m3,
`weight_scale` and perhaps `weight_zero_point`. `weight_g_idx` [K] is the group of each input channel where they are
out of order. w = (code - zero) * scale in the scales' type. Source: vllm-project/compressed-tensors, compressors/
(pack_quantized, naive_quantized) and quantization/lifecycle/forward_helpers.py (`_dequantize`).

int8 activations are rounded per row as they come (`rounds_input`), also where a checkpoint has one scale for all of
them: a row's own scale loses less. 8-bit float activations stay as they are.
"""

from torch import Tensor

from servery.engine.cut import Cut
from servery.engine.errors import LoadError
from servery.engine.quantization.compressed_config import PACKED, CompressedScheme, CompressedTensorsConfig
from servery.engine.quantization.dividing import COLUMNS, ROWS, columns_by, rows_by, spread_axes
from servery.engine.quantization.float8 import ACTIVATION_SCALES
from servery.engine.quantization.format import FLOATS, StoredModule, dense_matrix, divided_dense
from servery.engine.quantization.matrix import Float8Matrix, GroupMatrix, Matrix
from servery.engine.quantization.packing import codes_of_rows, folded, integers_of_rows
from servery.engine.quantization.stored_codes import (
    FLOATS8,
    SIGNED_BYTES,
    WORDS,
    check_whole,
    group_order,
    has_codes,
    load,
    load_float8,
    load_spread,
)

_PASSED_OVER = ACTIVATION_SCALES | {"input_zero_point"}


class CompressedTensorsFormat:
    """The matrices of a compressed-tensors checkpoint; modules without codes are dense."""

    def __init__(self, config: CompressedTensorsConfig) -> None:
        self._config = config

    def matrix(self, module: str, shape: tuple[int, int], stored: StoredModule) -> Matrix:
        """The matrix `shape` of `module`."""
        scheme = self._config.scheme_of(module)
        suffix = "weight_packed" if "weight_packed" in stored else "weight"
        coded = WORDS | FLOATS8 | SIGNED_BYTES
        if not has_codes(stored, suffix, is_skipped=scheme is None, dtypes=coded) or scheme is None:
            return dense_matrix(stored, shape)
        if scheme.is_float:
            return _float_matrix(scheme, shape, stored)
        return _packed_matrix(scheme, shape, stored) if scheme.format == PACKED else _matrix(scheme, shape, stored)

    def divided(self, stored: StoredModule, shape: tuple[int, int], cut: Cut) -> StoredModule | None:
        """Whole words and groups; all of a module whose input channels are in no order, when it is cut between these."""
        scheme = self._config.scheme_of(stored.name)
        if scheme is None or (cut.columns is not None and (scheme.is_ordered or "weight_g_idx" in stored)):
            return divided_dense(stored, shape, cut) if scheme is None else None
        scales = {
            name: spread_axes(stored.shape_of(name), group_size=scheme.group_size, block=scheme.block)
            for name in ("weight_scale", "weight_zero_point")
        }
        if "weight_packed" not in stored:
            return stored.part(shape, cut, {"weight": (ROWS, COLUMNS), **scales})
        word = 32 // scheme.bits
        scales["weight_zero_point"] = (
            rows_by(word),
            scales["weight_scale"][1] if len(scales["weight_scale"]) > 1 else None,
        )
        return stored.part(shape, cut, {"weight_packed": (ROWS, columns_by(word)), **scales})

    def is_redundant(self, name: str) -> bool:
        """Scales of activations and of the KV cache."""
        return name.rpartition(".")[2] in _PASSED_OVER


def _float_matrix(scheme: CompressedScheme, shape: tuple[int, int], stored: StoredModule) -> Matrix:
    codes = load_float8(stored, "weight", shape)
    if "weight_zero_point" in stored and bool(stored["weight_zero_point"].load().float().any()):
        path = stored["weight_zero_point"].path
        raise LoadError(f"{path}: tensor {stored.name}.weight_zero_point must be 0 for weights in 8-bit floats.")
    width = scheme.group_size if scheme.block is None else scheme.block[1]
    return Float8Matrix(codes, _scales(scheme, shape, stored), group_size=width)


def _packed_matrix(scheme: CompressedScheme, shape: tuple[int, int], stored: StoredModule) -> Matrix:
    rows, columns = shape
    bits = scheme.bits
    words = load(stored, "weight_packed", (rows, -(-columns * bits // 32)), WORDS)
    check_whole(stored, "weight_packed", columns, 8 // bits)
    claimed = tuple(load(stored, "weight_shape", (2,), frozenset({"I64", "I32"})).tolist())
    if stored.shape == (0, 0) and claimed != shape:
        path = stored["weight_shape"].path
        raise LoadError(
            f"{path}: {stored.name}.weight_shape is {list(claimed)}; by config.json it must be {list(shape)}."
        )
    scales = _scales(scheme, shape, stored)
    zeros: Tensor | int = 2 ** (bits - 1)
    if not scheme.is_symmetric:
        packed = load(stored, "weight_zero_point", (-(-rows * bits // 32), scales.shape[1]), WORDS)
        zeros = folded(integers_of_rows(packed.t(), bits)[:, :rows].t().contiguous())
    codes = codes_of_rows(words)[:, : columns * bits // 8].contiguous()
    order = _order(scheme, stored, columns, scales.shape[1])
    return GroupMatrix(codes, scales, zeros, order=order, bits=bits, rounds_input=scheme.rounds_input)


def _matrix(scheme: CompressedScheme, shape: tuple[int, int], stored: StoredModule) -> Matrix:
    codes = load(stored, "weight", shape, SIGNED_BYTES).clone()
    scales = _scales(scheme, shape, stored)
    zeros: Tensor | int = 0
    if "weight_zero_point" in stored or not scheme.is_symmetric:
        zeros = folded(load_spread(stored, "weight_zero_point", shape, SIGNED_BYTES, group_size=scheme.group_size))
    order = _order(scheme, stored, shape[1], scales.shape[1])
    return GroupMatrix(codes, scales, zeros, order=order, rounds_input=scheme.rounds_input)


def _scales(scheme: CompressedScheme, shape: tuple[int, int], stored: StoredModule) -> Tensor:
    return load_spread(stored, "weight_scale", shape, FLOATS, group_size=scheme.group_size, block=scheme.block)


def _order(scheme: CompressedScheme, stored: StoredModule, columns: int, groups: int) -> Tensor | None:
    if scheme.is_ordered or "weight_g_idx" in stored:
        return group_order(stored, "weight_g_idx", columns, groups)
    return None
