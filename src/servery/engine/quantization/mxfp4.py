"""Checkpoints whose experts are stored in MXFP4, as gpt-oss is.

Layout: `blocks` [N, K / 32, 16] bytes, two codes of 4 bits in each, the earlier in the low half, and `scales`
[N, K / 32] bytes: the exponent of a power of 2, plus 127. A code names one of 16 values (e2m1): w = value * 2^exponent,
which is exact in bfloat16. Source: OCP Microscaling Formats 1.0, sections 5.2 and 5.3; transformers,
integrations/mxfp4.py (`convert_moe_packed_tensors`).
"""

import torch

from servery.engine.cut import Cut
from servery.engine.quantization.config import Mxfp4Config
from servery.engine.quantization.dividing import ROWS, columns_by
from servery.engine.quantization.format import StoredModule, dense_matrix, divided_dense
from servery.engine.quantization.matrix import CodebookMatrix, Matrix
from servery.engine.quantization.stored_codes import BYTES, check_whole, has_codes, load

_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES = torch.tensor([*_MAGNITUDES, *(-value for value in _MAGNITUDES)], dtype=torch.bfloat16)
_GROUP_SIZE = 32


class Mxfp4Format:
    """The matrices of an MXFP4 checkpoint; modules without blocks are dense."""

    def __init__(self, config: Mxfp4Config) -> None:
        self._config = config

    def matrix(self, module: str, shape: tuple[int, int], stored: StoredModule) -> Matrix:
        """The matrix `shape` of `module`."""
        if not has_codes(stored, "blocks", is_skipped=module in self._config.skipped):
            return dense_matrix(stored, shape)
        rows, columns = shape
        check_whole(stored, "blocks", columns, _GROUP_SIZE)
        groups = columns // _GROUP_SIZE
        blocks = load(stored, "blocks", (rows, groups, _GROUP_SIZE // 2), BYTES)
        scales = load(stored, "scales", (rows, groups), BYTES).clone().view(torch.float8_e8m0fnu)
        return CodebookMatrix(blocks.flatten(1).clone(), _VALUES, scales, arithmetic=torch.bfloat16)

    def divided(self, stored: StoredModule, shape: tuple[int, int], cut: Cut) -> StoredModule | None:
        """Whole groups."""
        if "blocks" not in stored:
            return divided_dense(stored, shape, cut)
        groups = (ROWS, columns_by(_GROUP_SIZE))
        return stored.part(shape, cut, {"blocks": (*groups, None), "scales": groups})

    def is_redundant(self, name: str) -> bool:
        """Nothing is."""
        return False
