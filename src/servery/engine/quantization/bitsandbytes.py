"""Checkpoints quantized with bitsandbytes: nf4 and fp4, with their scales quantized again or not, and int8 rows.

Layout of 4 bits: `weight` [N * K / 2, 1] bytes (or the same bytes called another type), the earlier code in the high
half; `weight.absmax` is the scale of each block of the flattened matrix; `weight.quant_map` [16] the codebook; and
`weight.quant_state.bitsandbytes__nf4` the rest as JSON in bytes: block size, shape, and the type of the original.
Quantized scales are bytes: absmax = nested_quant_map[byte] * nested_absmax[byte's block] + nested_offset. Both are
computed in float32; w is then rounded to the original's type.
Layout of 8 bits: `weight` [N, K] int8 and `SCB` [N], the largest magnitude of each row: w = code * SCB * (1 / 127).
Source: bitsandbytes-foundation/bitsandbytes, functional.py (`QuantState`, `dequantize_4bit`,
`int8_vectorwise_dequant`), backends/default/ops.py. Activations are not rounded to int8 (LLM.int8() rounds all but
the outliers): the result is the one that the weights define.
"""

import json
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from servery.engine.cut import Cut
from servery.engine.errors import LoadError
from servery.engine.json_fields import JsonFields
from servery.engine.quantization.config import BitsAndBytesConfig
from servery.engine.quantization.dividing import COLUMNS, ROWS
from servery.engine.quantization.format import FLOATS, StoredModule, dense_matrix
from servery.engine.quantization.matrix import CodebookMatrix, GroupMatrix, Matrix
from servery.engine.quantization.packing import bytes_of, swapped_halves
from servery.engine.quantization.stored_codes import (
    BYTES,
    SIGNED_BYTES,
    check_whole,
    has_codes,
    load,
    load_finite,
)

_F32 = frozenset({"F32"})
_STATES = tuple(f"weight.quant_state.bitsandbytes__{name}" for name in ("nf4", "fp4"))
_ORIGINALS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class BitsAndBytesFormat:
    """The matrices of a bitsandbytes checkpoint; modules without codes are dense."""

    def __init__(self, config: BitsAndBytesConfig) -> None:
        self._config = config

    def matrix(self, module: str, shape: tuple[int, int], stored: StoredModule) -> Matrix:
        """The matrix `shape` of `module`."""
        is_skipped = module in self._config.skipped
        if self._config.bits == 8:
            has_rows = has_codes(stored, "weight", is_skipped=is_skipped, dtypes=SIGNED_BYTES)
            return _rows(shape, stored) if has_rows else dense_matrix(stored, shape)
        if not any(suffix.startswith("weight.") for suffix in stored):
            return dense_matrix(stored, shape)
        state = next((name for name in _STATES if name in stored), _STATES[0])
        has_codes(stored, state, is_skipped=is_skipped)
        return _codebook(shape, stored, state)

    def divided(self, stored: StoredModule, shape: tuple[int, int], cut: Cut) -> StoredModule | None:
        """Some of the values of 8 bits and more; of 4 bits all, which are one run of blocks without rows."""
        if any(suffix.startswith("weight.") for suffix in stored):
            return None
        return stored.part(shape, cut, {"weight": (ROWS, COLUMNS), "SCB": (ROWS,)})

    def is_redundant(self, name: str) -> bool:
        """A mark that says how a device ordered int8 rows; only the plain order is ever stored."""
        return name.endswith(".weight_format")


@dataclass(frozen=True, slots=True)
class _State:
    """What stands in the JSON beside a 4-bit weight; `nested_offset` is None where scales are not quantized."""

    block_size: int
    original: torch.dtype
    nested_block_size: int
    nested_offset: float | None


def _rows(shape: tuple[int, int], stored: StoredModule) -> Matrix:
    codes = load(stored, "weight", shape, SIGNED_BYTES).clone()
    scales = load_finite(stored, "SCB", (shape[0],), _F32).clone().unsqueeze(1)
    # Division by 127, as the reference does it: by a second factor.
    return GroupMatrix(codes, scales, unit=1 / 127)


def _codebook(shape: tuple[int, int], stored: StoredModule, state_name: str) -> Matrix:
    rows, columns = shape
    state = _read_state(stored, state_name, shape)
    check_whole(stored, "weight.absmax", columns, 2)
    blocks = -(-rows * columns // state.block_size)
    packed = _packed(stored, rows * columns // 2)
    scales = _scales(stored, blocks, state)
    # A block may go over the end of a row: groups of this size never do, and lie in one block each.
    size = math.gcd(columns, state.block_size)
    groups = rows * columns // size
    scales = scales.repeat_interleave(min(state.block_size // size, groups))[:groups]
    return CodebookMatrix(
        swapped_halves(packed).view(rows, columns // 2),
        load_finite(stored, "weight.quant_map", (16,), _F32).clone(),
        scales.view(rows, columns // size),
        rounded_to=state.original,
    )


def _packed(stored: StoredModule, num_bytes: int) -> Tensor:
    """The codes [num_bytes] uint8, which may be stored as a type of more bytes."""
    data = bytes_of(load(stored, "weight", None, BYTES | FLOATS)).flatten()
    if data.numel() != num_bytes:
        raise LoadError(
            f"{stored['weight'].path}: tensor {stored.name}.weight holds {data.numel()} bytes; by config.json it must be "
            f"{num_bytes}, with two codes of 4 bits in each."
        )
    return data


def _scales(stored: StoredModule, blocks: int, state: _State) -> Tensor:
    """A scale for each block [blocks] float32."""
    if state.nested_offset is None:
        return load_finite(stored, "weight.absmax", (blocks,), _F32).clone()
    codes = load(stored, "weight.absmax", (blocks,), BYTES).int()
    nested_blocks = -(-blocks // state.nested_block_size)
    nested = load_finite(stored, "weight.nested_absmax", (nested_blocks,), _F32)
    values = load_finite(stored, "weight.nested_quant_map", (256,), _F32)[codes]
    return values * nested.repeat_interleave(min(state.nested_block_size, blocks))[:blocks] + state.nested_offset


def _read_state(stored: StoredModule, name: str, shape: tuple[int, int]) -> _State:
    data = bytes(load(stored, name, None, BYTES).tolist())
    place = f"{stored.name}.{name}."
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{stored[name].path}: tensor {place[:-1]} is not valid JSON: {error}.") from error
    if not isinstance(values, dict):
        raise LoadError(f"{stored[name].path}: tensor {place[:-1]} must hold a JSON object.")
    fields = JsonFields(stored[name].path, values, place)
    if fields.raw("shape") != list(shape):
        raise fields.error("shape", f"by config.json it must be {list(shape)}")
    is_nested = "weight.nested_absmax" in stored
    offset = fields.raw("nested_offset") if is_nested else None
    if is_nested and not (isinstance(offset, float) and math.isfinite(offset)):
        raise fields.error("nested_offset", "it must be a number")
    return _State(
        block_size=fields.count("blocksize"),
        original=_ORIGINALS[fields.choice("dtype", tuple(_ORIGINALS))],
        nested_block_size=fields.count("nested_blocksize", 256),
        nested_offset=offset,
    )
