"""Checkpoints quantized with AWQ, as AutoAWQ stores them (`version: gemm`).

Layout: `qweight` [K, N / 8] int32, `qzeros` [K / g, N / 8] int32 and `scales` [K / g, N] float16; a word holds eight
output channels in the order 0 2 4 6 1 3 5 7, lowest bits first; w = (code - zero) * scale in the scales' type.
Source: casper-hansen/AutoAWQ, awq/modules/linear/gemm.py and awq/utils/packing_utils.py (`dequantize_gemm`).
"""

from servery.engine.cut import Cut
from servery.engine.quantization.config import AwqConfig
from servery.engine.quantization.dividing import COLUMNS, ROWS, columns_by, rows_by
from servery.engine.quantization.format import FLOATS, StoredModule, dense_matrix, divided_dense
from servery.engine.quantization.matrix import GroupMatrix, Matrix
from servery.engine.quantization.packing import awq_codes, awq_integers, folded
from servery.engine.quantization.stored_codes import (
    WORDS,
    check_whole,
    has_codes,
    load,
    load_finite,
    number_of_groups,
)


class AwqFormat:
    """The matrices of an AWQ checkpoint; modules without codes are dense."""

    def __init__(self, config: AwqConfig) -> None:
        self._config = config

    def matrix(self, module: str, shape: tuple[int, int], stored: StoredModule) -> Matrix:
        """The matrix `shape` of `module`."""
        if not has_codes(stored, "qweight", is_skipped=module in self._config.skipped):
            return dense_matrix(stored, shape)
        rows, columns = shape
        groups = number_of_groups(stored, "qweight", columns, self._config.group_size)
        check_whole(stored, "qweight", rows, 8)
        check_whole(stored, "qweight", columns, 2)
        words = load(stored, "qweight", (columns, rows // 8), WORDS)
        zeros = load(stored, "qzeros", (groups, rows // 8), WORDS)
        scales = load_finite(stored, "scales", (groups, rows), FLOATS)
        return GroupMatrix(
            awq_codes(words),
            scales.t().contiguous(),
            folded(awq_integers(zeros).t().contiguous()),
            bits=4,
        )

    def divided(self, stored: StoredModule, shape: tuple[int, int], cut: Cut) -> StoredModule | None:
        """Whole words of output channels, whole groups of input channels."""
        if "qweight" not in stored:
            return divided_dense(stored, shape, cut)
        groups = None if self._config.group_size is None else columns_by(self._config.group_size)
        axes = {"qweight": (COLUMNS, rows_by(8)), "qzeros": (groups, rows_by(8)), "scales": (groups, ROWS)}
        part = stored.part(shape, cut, axes)
        return None if part is not None and part.shape[1] % 2 else part

    def is_redundant(self, name: str) -> bool:
        """Nothing is."""
        return False
