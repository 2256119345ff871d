"""Checkpoints quantized with GPTQ, as AutoGPTQ and GPTQModel store them.

Layout: `qweight` [K * bits / 32, N] int32 packs neighbouring input channels, `qzeros` [G, N * bits / 32] int32
neighbouring output channels, both lowest bits first; `scales` [G, N]; `g_idx` [K] int32 is the group of each input
channel, out of order with act-order. w = (code - zero) * scale in the scales' type. The first version of the format
stores zero points less one, and adds it back within the bits of a code (AutoGPTQ/AutoGPTQ,
auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py); `gptq_v2` stores them as they are (ModelCloud/GPTQModel,
gptqmodel/nn_modules/qlinear/__init__.py `_dequantize_from_codes`, utils/model.py `convert_gptq_v1_to_v2_format_module`).
"""

from torch import Tensor

from servery.engine.cut import Cut
from servery.engine.errors import LoadError
from servery.engine.quantization.config import GptqConfig
from servery.engine.quantization.dividing import COLUMNS, ROWS, Axes, columns_by, rows_by
from servery.engine.quantization.format import FLOATS, StoredModule, dense_matrix, divided_dense
from servery.engine.quantization.matrix import GroupMatrix, Matrix
from servery.engine.quantization.packing import codes_of_columns, folded, integers_of_rows
from servery.engine.quantization.stored_codes import (
    WORDS,
    check_whole,
    group_order,
    has_codes,
    load,
    load_finite,
    number_of_groups,
)


class GptqFormat:
    """The matrices of a GPTQ checkpoint; modules without codes are dense."""

    def __init__(self, config: GptqConfig) -> None:
        self._config = config

    def matrix(self, module: str, shape: tuple[int, int], stored: StoredModule) -> Matrix:
        """The matrix `shape` of `module`."""
        layout = self._config.layout_of(module)
        if not has_codes(stored, "qweight", is_skipped=layout is None) or layout is None:
            return dense_matrix(stored, shape)
        rows, columns = shape
        bits = layout.bits
        groups = number_of_groups(stored, "qweight", stored.group_columns or columns, layout.group_size)
        for channels in shape:
            check_whole(stored, "qweight", channels, 32 // bits)
        words = load(stored, "qweight", (columns * bits // 32, rows), WORDS)
        zeros = load(stored, "qzeros", (groups, rows * bits // 32), WORDS)
        scales = load_finite(stored, "scales", (groups, rows), FLOATS)
        _check_bias(stored)
        return GroupMatrix(
            codes_of_columns(words),
            scales.t().contiguous(),
            folded(self._zeros(zeros, bits)),
            order=self._order(stored, columns, groups),
            bits=bits,
        )

    def _zeros(self, words: Tensor, bits: int) -> Tensor:
        """Zero points [N, G] uint8. The addition wraps around, as that of the kernels does."""
        stored = integers_of_rows(words, bits).t().contiguous()
        return stored.add_(self._config.zero_offset).bitwise_and_(2**bits - 1)

    def _order(self, stored: StoredModule, columns: int, groups: int) -> Tensor | None:
        """The group of each input channel; old files without act-order may lack it."""
        if "g_idx" not in stored and not (self._config.is_ordered and groups > 1):
            return None
        return group_order(stored, "g_idx", columns, groups)

    def divided(self, stored: StoredModule, shape: tuple[int, int], cut: Cut) -> StoredModule | None:
        """Whole words; with act-order all groups, for any input channel may be of any."""
        layout = self._config.layout_of(stored.name)
        if "qweight" not in stored or layout is None:
            return divided_dense(stored, shape, cut)
        word, columns = 32 // layout.bits, shape[1]
        groups = number_of_groups(stored, "qweight", columns, layout.group_size)
        is_ordered = cut.columns is not None and self._order(stored, columns, groups) is not None
        of_group = None if is_ordered or layout.group_size is None else columns_by(layout.group_size)
        axes: dict[str, Axes] = {
            "qweight": (columns_by(word), ROWS),
            "qzeros": (of_group, rows_by(word)),
            "scales": (of_group, ROWS),
            "g_idx": (COLUMNS,),
            "bias": (ROWS,),
        }
        part = stored.part(shape, cut, axes)
        if part is not None and cut.columns is not None:
            part.group_columns = columns if is_ordered else part.shape[1]
        return part

    def is_redundant(self, name: str) -> bool:
        """Nothing is."""
        return False


def _check_bias(stored: StoredModule) -> None:
    """AutoGPTQ stores a bias of zeros for layers that have none; any other belongs to another architecture."""
    if "bias" in stored and bool(stored.need("bias").load().any()):
        raise LoadError(
            f"{stored.need('bias').path}: tensor {stored.name}.bias has no place in the model that config.json "
            "describes, and is not zero. The weights and config.json belong to different models."
        )
