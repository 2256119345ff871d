"""A weight whose groups' scales are themselves whole numbers with a scale, as in the K-quants of GGUF."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from servery.engine.errors import LoadError
from servery.engine.quantization.matrix import GroupMatrix


@dataclass(frozen=True, slots=True, eq=False)
class NestedMatrix:
    """A `GroupMatrix` that keeps its scales in 8 bits: `scales = unit_scales * scale_codes`, and so its minima.

    `codes`, `bits` and `zeros` as there. `scale_codes` and `minimum_codes` [N, G] have 8 bits; `unit_scales` and
    `unit_minima` [N, U] float16 are for G / U groups each. All is computed in float32. With 32 columns to a group and
    256 to a unit it takes 0.625 bits per weight besides the codes, where scales and minima in float32 take 2. Raises
    `LoadError` when the parts do not fit each other.
    """

    codes: Tensor
    scale_codes: Tensor
    unit_scales: Tensor
    minimum_codes: Tensor | None = None
    unit_minima: Tensor | None = None
    zeros: int = 0
    bits: int = 8

    by_row: ClassVar = frozenset({"codes", "scale_codes", "unit_scales", "minimum_codes", "unit_minima"})

    def __post_init__(self) -> None:
        if self.scale_codes.shape[1] % self.unit_scales.shape[1]:
            raise LoadError(
                f"{self.scale_codes.shape[1]} scales cannot be divided among {self.unit_scales.shape[1]} units."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.codes.shape[1] * 8 // self.bits

    @property
    def nbytes(self) -> int:
        """Bytes of codes and of both kinds of scales."""
        return sum(part.nbytes for part in self._parts().values())

    def grouped(self) -> GroupMatrix:
        """The same with scales and minima computed; the codes are shared."""
        minima = None
        if self.minimum_codes is not None and self.unit_minima is not None:
            minima = _product(self.unit_minima, self.minimum_codes)
        scales = _product(self.unit_scales, self.scale_codes)
        return GroupMatrix(self.codes, scales, zeros=self.zeros, minima=minima, bits=self.bits)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The values [N, K], computed in float32."""
        return self.grouped().dequantize(dtype)

    def select_rows(self, index: Tensor | slice) -> "NestedMatrix":
        """The rows that `index` names, with their scales."""
        rows = index if isinstance(index, slice) else index.long()
        return replace(self, **{name: part[rows] for name, part in self._parts().items()})  # type: ignore[arg-type]

    def _parts(self) -> dict[str, Tensor]:
        parts = {name: getattr(self, name) for name in sorted(self.by_row)}
        return {name: part for name, part in parts.items() if part is not None}


def _product(units: Tensor, codes: Tensor) -> Tensor:
    """Each unit times the codes of its groups: [N, U] and [N, G] -> float32 [N, G]."""
    grouped = codes.view(*units.shape, -1)
    return (units.float().unsqueeze(2) * grouped).view(codes.shape)
