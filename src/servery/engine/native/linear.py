"""A linear layer over packed panels: what a `Linear` is, computed by the native kernels.

Packed once, from a dense matrix or from codes; rows are computed each by itself, so that what a token's row becomes
does not depend on who shares its batch, nor on the number of threads. Codes of 8 and 4 bits multiply inputs that are
rounded to 8 bits: by row where the weights have a scale per output channel, by row and group where they have groups.
"""

from collections.abc import Sequence
from ctypes import byref

import torch
from torch import Tensor

from servery.engine.native.library import (
    BF16,
    F32,
    I8,
    KIND_BF16,
    KIND_F32,
    KIND_I4,
    KIND_I8,
    LinearStruct,
    NativeContext,
    RowsStruct,
    rows_struct,
)
from servery.engine.quantization.matrix import DenseMatrix, GroupMatrix, Matrix

# Whole-number sums of so many products fit 32 bits.
_MOST_COLUMNS = 32768
_TYPES = {torch.float32: F32, torch.bfloat16: BF16}


class NativeLinear:
    """`x @ weight.T + bias` from panels; `packed` is what holds the kernel's description of them."""

    __slots__ = ("_bias", "_context", "_function", "_n", "_panels", "_struct", "_weight", "_x", "_y")

    def __init__(self, context: NativeContext, struct: LinearStruct, panels: Tensor, bias: Tensor | None) -> None:
        self._context = context
        self._panels = panels
        self._bias = None if bias is None else bias.float().contiguous()
        struct.bias = None if self._bias is None else self._bias.data_ptr()
        self._struct = struct
        self._weight = byref(struct)
        self._function = context.library.servery_linear
        self._n = struct.n
        self._x, self._y = RowsStruct(), RowsStruct()

    @property
    def struct(self) -> LinearStruct:
        """What the kernels are told; of use as long as this layer lives."""
        return self._struct

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self._struct.n, self._struct.k

    @property
    def is_dense(self) -> bool:
        """Whether rows of the weight can be read back."""
        return self._struct.kind in {KIND_F32, KIND_BF16}

    @property
    def nbytes(self) -> int:
        """Bytes of panels, padding included, and bias."""
        return self._panels.nbytes + (0 if self._bias is None else self._bias.nbytes)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features], float32 or bfloat16 like `x`."""
        y = torch.empty((len(x), self._n), dtype=x.dtype)
        self._run(x, y, _NOTHING)
        return y

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`, rounded once; `residual` is left alone."""
        y = torch.empty((len(x), self._n), dtype=residual.dtype)
        self._run(x, y, _rows(residual))
        return y

    def weight_rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows `ids` (int64 [count]) of a dense weight: [count, in_features]."""
        ids = ids.contiguous()
        y = torch.empty((len(ids), self._struct.k), dtype=dtype)
        unpack = self._context.library.servery_unpack_rows
        if unpack(self._context.handle, self._weight, len(ids), ids.data_ptr(), byref(_rows(y))):
            raise IndexError(f"ids up to {int(ids.max())}; this layer has {self._n} rows of weights.")
        return y

    def _run(self, x: Tensor, y: Tensor, residual: RowsStruct) -> None:
        if x.shape[1] != self._struct.k:
            raise ValueError(f"rows have {x.shape[1]} columns; this layer takes {self._struct.k}.")
        if x.stride(1) != 1:
            x = x.contiguous()
        into, out = self._x, self._y
        into.data, into.type, into.stride = x.data_ptr(), _TYPES[x.dtype], x.stride(0)
        out.data, out.type, out.stride = y.data_ptr(), _TYPES[y.dtype], self._n
        if self._function(self._context.handle, self._weight, len(x), byref(into), byref(out), byref(residual)):
            raise MemoryError(f"no memory for {len(x)} rows of {self._struct.k} inputs.")


def native_stack(context: NativeContext, parts: Sequence[Matrix], bias: Tensor | None) -> NativeLinear | None:
    """The layer that has the rows of all `parts`, each packed from where it lies; None where they have to be joined first.

    Those are layouts other than bfloat16, and parts that end inside a panel.
    """
    weights = [part.weight for part in parts if isinstance(part, DenseMatrix) and part.weight.dtype == torch.bfloat16]
    structs = [_struct(KIND_BF16, *weight.shape) for weight in weights]
    if len(weights) < len(parts) or not all(_ends_a_panel(context, struct) for struct in structs[:-1]):
        return None
    whole = _struct(KIND_BF16, sum(struct.n for struct in structs), structs[0].k)
    panels, at = _room(context, whole), 0
    for struct, weight in zip(structs, weights, strict=True):
        struct.panels = panels.data_ptr() + at
        at += context.library.servery_packed_bytes(context.handle, byref(struct))
        _pack_dense(context, struct, weight)
    return NativeLinear(context, whole, panels, bias)


def _ends_a_panel(context: NativeContext, struct: LinearStruct) -> bool:
    """Whether another row would need another panel."""
    longer = _struct(struct.kind, struct.n + 1, struct.k)
    size = context.library.servery_packed_bytes
    return bool(size(context.handle, byref(longer)) > size(context.handle, byref(struct)))


def native_linear(context: NativeContext, matrix: Matrix, bias: Tensor | None) -> NativeLinear | None:
    """The layer for a matrix, packed; None for layouts that there is no kernel for."""
    if isinstance(matrix, DenseMatrix) and matrix.weight.dtype in _TYPES:
        return _dense(context, matrix.weight, bias)
    if isinstance(matrix, GroupMatrix) and matrix.order is None:
        if _is_int8(matrix):
            return _int8(context, matrix, bias)
        if _is_int4(matrix):
            return _int4(context, matrix, bias)
    return None


def _is_int8(matrix: GroupMatrix) -> bool:
    is_by_channel = matrix.num_groups == 1 and matrix.minima is None
    return matrix.bits == 8 and is_by_channel and matrix.shape[1] <= _MOST_COLUMNS


def _is_int4(matrix: GroupMatrix) -> bool:
    return matrix.bits == 4 and matrix.group_size % 8 == 0 and not (matrix.rounds_input and matrix.num_groups == 1)


def _dense(context: NativeContext, weight: Tensor, bias: Tensor | None) -> NativeLinear:
    weight = _shortest(weight) if weight.dtype == torch.float32 else weight
    struct = _struct(KIND_F32 if weight.dtype == torch.float32 else KIND_BF16, *weight.shape)
    panels = _room(context, struct)
    _pack_dense(context, struct, weight)
    return NativeLinear(context, struct, panels, bias)


def _pack_dense(context: NativeContext, struct: LinearStruct, weight: Tensor) -> None:
    weight = weight if weight.stride(1) == 1 else weight.contiguous()
    context.library.servery_pack_dense(context.handle, byref(struct), _rows(weight))


def _shortest(weight: Tensor) -> Tensor:
    """float32 values as bfloat16 if they all are: products are the same to the last bit, and half as much is read."""
    short = weight.bfloat16()
    return short if torch.equal(short.float(), weight) else weight


def _int8(context: NativeContext, matrix: GroupMatrix, bias: Tensor | None) -> NativeLinear:
    # Unsigned codes are signed ones with another zero point.
    shift = 0 if matrix.codes.dtype == torch.int8 else 128
    codes = (matrix.codes if shift == 0 else (matrix.codes ^ 128).view(torch.int8)).contiguous()
    scales = (matrix.scales.float() * matrix.unit).flatten()
    zeros = matrix.zeros.flatten().int() - shift if isinstance(matrix.zeros, Tensor) else None
    if isinstance(matrix.zeros, int) and matrix.zeros != shift:
        zeros = torch.full((len(codes),), matrix.zeros - shift, dtype=torch.int32)
    struct = _struct(KIND_I8, *matrix.shape)
    panels = _room(context, struct)
    context.library.servery_pack_i8(
        context.handle, byref(struct), _bytes(codes), scales.data_ptr(), None if zeros is None else zeros.data_ptr()
    )
    return NativeLinear(context, struct, panels, bias)


def _int4(context: NativeContext, matrix: GroupMatrix, bias: Tensor | None) -> NativeLinear:
    codes = matrix.codes.contiguous()
    scales = (matrix.scales.float() * matrix.unit).contiguous()
    minima = None if matrix.minima is None else (matrix.minima.float() * matrix.unit).contiguous()
    zeros = matrix.zeros.to(torch.uint8) if isinstance(matrix.zeros, Tensor) else None
    if isinstance(matrix.zeros, int):
        zeros = torch.full(scales.shape, matrix.zeros, dtype=torch.uint8)
    assert zeros is not None
    zeros = zeros.contiguous()
    struct = _struct(KIND_I4, *matrix.shape)
    struct.group = matrix.group_size
    struct.has_minima = minima is not None
    struct.wide_scales = not torch.equal(scales, scales.bfloat16().float())
    panels = _room(context, struct)
    context.library.servery_pack_i4(
        context.handle,
        byref(struct),
        _bytes(codes),
        scales.data_ptr(),
        zeros.data_ptr(),
        None if minima is None else minima.data_ptr(),
    )
    return NativeLinear(context, struct, panels, bias)


def _struct(kind: int, n: int, k: int) -> LinearStruct:
    return LinearStruct(kind=kind, n=n, k=k)


def _room(context: NativeContext, struct: LinearStruct) -> Tensor:
    """Memory for the panels, which `struct` is told."""
    room = context.arena.take(context.library.servery_packed_bytes(context.handle, byref(struct)))
    struct.panels = room.data_ptr()
    return room


def _rows(values: Tensor) -> RowsStruct:
    return rows_struct(values.data_ptr(), _TYPES[values.dtype], values.stride(0))


def _bytes(codes: Tensor) -> RowsStruct:
    return rows_struct(codes.data_ptr(), I8, codes.stride(0))


_NOTHING = RowsStruct()
