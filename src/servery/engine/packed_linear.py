"""Layers that are multiplied as the codes they are: torch has operations for 8 bits by channel and 4 bits by group.

They read the packed weight once and are quickest for few rows, where reading is what a step waits for. With many rows
computing is, and there it pays to turn a tile of codes into numbers first. Where, `benchmarks.quantized_steps` told
with one thread of a Zen 4 CPU.
"""

from functools import cache

import torch
from torch import Tensor

from servery.engine.quantization.decode import codebook_values
from servery.engine.quantization.matrix import GroupMatrix

# From so many rows on codes are turned into numbers.
INT8_MANY_ROWS = 24
INT4_MANY_ROWS = 120
# Values that are turned into numbers at a time.
_TILE_VALUES = 1 << 18
_GROUP_SIZES = frozenset({32, 64, 128, 256})
# The operation for 4 bits keeps rows in blocks of this size.
_BLOCK = 64


class Int8Linear:
    """Int8 codes [N, K] with a scale for each row: `(x @ codes.T) * scales`."""

    __slots__ = ("_codes", "_scales", "_tiles", "bias")

    def __init__(self, matrix: GroupMatrix, bias: Tensor | None, dtype: torch.dtype) -> None:
        # Unsigned codes with a zero point of 128 are the same codes.
        self._codes = matrix.codes if matrix.codes.dtype == torch.int8 else (matrix.codes ^ 128).view(torch.int8)
        self._scales = (matrix.scales * matrix.unit).flatten().to(dtype)
        self._tiles = torch.split(self._codes, max(1, _TILE_VALUES // matrix.shape[1]))
        self.bias = bias

    @staticmethod
    def takes(matrix: GroupMatrix, dtype: torch.dtype) -> bool:
        """Whether a matrix is of that kind, and its values as `dtype` are not rounded before they are multiplied."""
        center = 0 if matrix.codes.dtype == torch.int8 else 128
        is_symmetric = isinstance(matrix.zeros, int) and matrix.zeros == center and matrix.minima is None
        is_exact = dtype == torch.bfloat16 or (matrix.arithmetic or matrix.scales.dtype) == torch.float32
        return matrix.bits == 8 and matrix.num_groups == 1 and is_symmetric and is_exact

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self._codes.shape[0], self._codes.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self._codes.nbytes + self._scales.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features]."""
        if x.dtype == torch.bfloat16 and len(x) < INT8_MANY_ROWS:
            y = torch._weight_int8pack_mm(x, self._codes, self._scales)  # noqa: SLF001 torch has no other name for it
        else:
            y = torch.cat([torch.mm(x, tile.to(x.dtype).t()) for tile in self._tiles], dim=1).mul_(self._scales)
        return y if self.bias is None else y.add_(self.bias)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`."""
        return self(x).add_(residual)


class Int4Linear:
    """Codes of 4 bits with a scale for each group, for bfloat16: `w = (code - 8) * scale + offset`.

    Held as torch's operation wants them: for each block of 64 rows, and in it for each column, 32 bytes of which byte j
    has the codes of rows j (low half) and j + 32. Scales and offsets are rounded to bfloat16.
    """

    __slots__ = ("_group_size", "_of_group", "_packed", "bias")

    def __init__(self, matrix: GroupMatrix, bias: Tensor | None) -> None:
        codes = matrix.integers().int()
        self._packed = torch._convert_weight_to_int4pack_for_cpu(codes, 1)  # noqa: SLF001
        scales = matrix.scales.float() * matrix.unit
        if matrix.minima is None:
            zeros = matrix.zeros.float() if isinstance(matrix.zeros, Tensor) else matrix.zeros
            offsets = (8 - zeros) * scales
        else:
            offsets = 8 * scales - matrix.minima.float() * matrix.unit
        self._of_group = torch.stack((scales.t(), offsets.t()), dim=2).bfloat16()  # [G, N, 2]
        self._group_size = matrix.group_size
        self.bias = bias

    @staticmethod
    def takes(matrix: GroupMatrix) -> bool:
        """Whether a matrix can be held so, here: not every CPU has the layout."""
        fits = matrix.bits == 4 and matrix.order is None and matrix.shape[0] % _BLOCK == 0
        return fits and matrix.group_size in _GROUP_SIZES and _has_layout()

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self._packed.shape[0], self._packed.shape[1] * 2

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self._packed.nbytes + self._of_group.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] bfloat16 -> [rows, out_features]."""
        if len(x) < INT4_MANY_ROWS:
            y = torch._weight_int4pack_mm_for_cpu(x, self._packed, self._group_size, self._of_group)  # noqa: SLF001
        else:
            y = self._unpacked_product(x)
        return y if self.bias is None else y.add_(self.bias)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`."""
        return self(x).add_(residual)

    def _unpacked_product(self, x: Tensor) -> Tensor:
        rows, columns = self.shape
        blocks = rows // _BLOCK
        # [blocks, G, 2, 1, 64]: the 64 in the order in which bytes hold the rows.
        of_group = self._of_group.view(-1, blocks, 2, _BLOCK // 2, 2).permute(1, 0, 4, 3, 2).flatten(3).unsqueeze(3)
        step = max(1, _TILE_VALUES // (columns * _BLOCK))
        codes = self._packed.view(blocks, columns, _BLOCK // 2)
        parts = []
        for first in range(0, blocks, step):
            tile, scales_offsets = codes[first : first + step], of_group[first : first + step]
            values = _unpacked(tile).view(len(tile), -1, self._group_size, _BLOCK)
            values.mul_(scales_offsets[:, :, 0]).add_(scales_offsets[:, :, 1])
            parts.append(torch.matmul(x, values.view(len(tile), columns, _BLOCK)))
        products = torch.cat(parts).view(blocks, len(x), _BLOCK // 2, 2)
        return products.permute(1, 0, 3, 2).reshape(len(x), rows)


def _unpacked(tile: Tensor) -> Tensor:
    """Codes less 8, bfloat16, [blocks * columns, 64], from bytes [blocks, columns, 32]."""
    return codebook_values(tile.flatten(0, 1), torch.arange(-8, 8, dtype=torch.bfloat16))


@cache
def _has_layout() -> bool:
    """Whether this CPU's operation packs as `Int4Linear` says; it is not documented, and differs between CPUs."""
    codes = torch.arange(2 * _BLOCK * 32).mul(7).div(5, rounding_mode="floor").remainder(16).view(2 * _BLOCK, 32).int()
    packed: Tensor = torch._convert_weight_to_int4pack_for_cpu(codes, 1)  # noqa: SLF001
    halves = codes.to(torch.uint8).view(2, 2, _BLOCK // 2, 32)
    return torch.equal(packed.view(2, 32, _BLOCK // 2), (halves[:, 0] | halves[:, 1] << 4).transpose(1, 2))
