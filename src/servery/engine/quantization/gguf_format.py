"""The matrices of a GGUF model: packed as they are stored where there is a layout for it, else dequantized."""

import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from servery.engine.checkpoint import StoredTensor
from servery.engine.cut import Cut
from servery.engine.errors import LoadError
from servery.engine.quantization.dividing import ROWS, Axis
from servery.engine.quantization.format import StoredModule
from servery.engine.quantization.gguf_blocks import DECODERS
from servery.engine.quantization.matrix import DenseMatrix, Matrix

_FLOATS = ("F32", "F16", "BF16")


class GgufFormat:
    """Every matrix is one tensor of floating-point values or of blocks."""

    def matrix(self, module: str, shape: tuple[int, int], stored: StoredModule) -> Matrix:
        """The matrix of the tensor that `GgufCheckpoint.open` gave; only a dense one shares the file's memory.

        Raises `LoadError` for a type that neither we nor the package gguf can decode.
        """
        return stored_matrix(stored.need("weight", shape))

    def divided(self, stored: StoredModule, shape: tuple[int, int], cut: Cut) -> StoredModule | None:
        """Some of the rows, or of each row whole blocks."""
        size = (
            1
            if stored["weight"].dtype in _FLOATS
            else GGML_QUANT_SIZES[GGMLQuantizationType[stored["weight"].dtype]][0]
        )
        return stored.part(shape, cut, {"weight": (ROWS, Axis(is_rows=False, per=size, shown=1))})

    def is_redundant(self, name: str) -> bool:
        """Nothing is: `GgufCheckpoint` has what the model needs and no more."""
        return False


def stored_matrix(tensor: StoredTensor) -> Matrix:
    """The matrix [N, K] that `tensor` holds."""
    if tensor.dtype in _FLOATS:
        return DenseMatrix(tensor.load())
    if tensor.dtype in DECODERS:
        return DECODERS[tensor.dtype](tensor.load())
    blocks = tensor.load().flatten(1).numpy()
    try:
        values = dequantize(blocks, GGMLQuantizationType[tensor.dtype])
    except NotImplementedError as error:
        raise LoadError(
            f"{tensor.path}: tensor {tensor.name} is stored as {tensor.dtype}, which cannot be read; supported are "
            f"{', '.join((*_FLOATS, *DECODERS))}, and dequantized when they are loaded all others that the package "
            "gguf decodes."
        ) from error
    return DenseMatrix(torch.from_numpy(values))
